"""What the modules share: the model stays outside the module tree."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch

from refusal_lightning.models import ChatModel
from refusal_lightning.models.engines.protocol import Engine


class ModelModule(L.LightningModule):
    """A predict loop over a chat model.

    The model is no submodule: Lightning would move it (the bridge's own idea of its device would go stale),
    broadcast all its weights to every process, cast its rotary tables, and write it into requeue checkpoints.
    """

    def __init__(self, model: ChatModel) -> None:
        super().__init__()
        self.model = model

    @property
    def spread(self) -> bool:
        """Whether one copy of the model lies over several devices."""
        return self.model.spread

    def setup(self, stage: str) -> None:
        self.model.engine(self.trainer.strategy.root_device)

    @property
    def input_device(self) -> torch.device:
        """Where token ids go: the process's device, unless the model is spread over several."""
        return self.engine.input_device

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return super().transfer_batch_to_device(batch, self.input_device, dataloader_idx)

    @property
    def engine(self) -> Engine:
        """What runs the model's passes on this process's device."""
        return self.model.engine(self.trainer.strategy.root_device)
