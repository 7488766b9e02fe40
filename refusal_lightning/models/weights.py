"""A model's weights: loaded when they are first asked for, kept, and let go together."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from refusal_lightning.models.checkpoint import Checkpoint
from refusal_lightning.models.engines.bridge import BridgeEngine, load_bridge
from refusal_lightning.models.engines.protocol import Engine
from refusal_lightning.models.engines.registry import fast_engine

if TYPE_CHECKING:
    import torch


class Weights:
    """What a chat model and its copies (``dataclasses.replace``) share: one copy of the weights in memory."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.when_loaded: Callable[[str | torch.device], None] | None = None
        """Called with the device whenever the weights have been loaded, before anything else uses them; where it
        raises, they are let go."""
        self._engine: BridgeEngine | None = None
        self._fast: Engine | None = None

    def engine(self, device: str | torch.device) -> BridgeEngine:
        """The model itself, loaded at the first call and kept. Raises UserError where it cannot be."""
        if self._engine is None:
            self._engine = load_bridge(self.checkpoint, device)
            if self.when_loaded is not None:
                try:
                    self.when_loaded(device)
                except BaseException:
                    self.release()
                    raise
        return self._engine

    def fast_engine(self, device: str | torch.device) -> Engine:
        """The same weights without the bridge's price per pass, where that can be had; kept as well."""
        if self._fast is None:
            engine = self.engine(device)
            # A model that is spread over devices is called as it was spread.
            self._fast = fast_engine(engine) if self.checkpoint.device_map is None else engine
        return self._fast

    def release(self) -> None:
        """Let go of the weights; they are loaded again when they are next asked for."""
        self._engine = self._fast = None
