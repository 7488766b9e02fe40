"""What the modules share: the model stays outside the module tree."""

from __future__ import annotations

from typing import TYPE_CHECKING

import lightning as L

from refusal_lightning.models import ChatModel

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


class ModelModule(L.LightningModule):
    """A predict loop over a chat model.

    The model is no submodule: Lightning would move it (the bridge's own idea of its device would go stale),
    broadcast all its weights to every process, cast its rotary tables, and write it into requeue checkpoints.
    """

    def __init__(self, model: ChatModel) -> None:
        super().__init__()
        self.model = model

    def setup(self, stage: str) -> None:
        self.model.bridge(self.trainer.strategy.root_device)

    @property
    def bridge(self) -> TransformerBridge:
        return self.model.bridge(self.trainer.strategy.root_device)
