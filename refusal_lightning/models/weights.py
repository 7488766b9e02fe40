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
        self._guard: Callable[[str | torch.device], None] | None = None
        self._guarded = False
        self._engine: BridgeEngine | None = None
        self._fast: Engine | None = None

    def guard_with(self, guard: Callable[[str | torch.device], None]) -> None:
        """Call ``guard`` with the device before the weights are used next, and whenever they have been loaded again.

        It takes the place of an earlier guard. Where it raises, the weights are let go.
        """
        self._guard, self._guarded = guard, False

    def engine(self, device: str | torch.device) -> BridgeEngine:
        """The model itself, loaded at the first call and kept. Raises UserError where it cannot be."""
        if self._engine is None:
            self._engine, self._guarded = load_bridge(self.checkpoint, device), False
        engine = self._engine
        if self._guard is not None and not self._guarded:
            self._guarded = True  # the guard uses the weights itself
            try:
                self._guard(device)
            except BaseException:
                self.release()
                raise
        return engine

    def fast_engine(self, device: str | torch.device) -> Engine:
        """The same weights without the bridge's price per pass, where that can be had; kept as well."""
        engine = self.engine(device)
        if self._fast is None:
            # A model that is spread over devices is called as it was spread.
            self._fast = fast_engine(engine) if self.checkpoint.device_map is None else engine
        return self._fast

    def release(self) -> None:
        """Let go of the weights; they are loaded again when they are next asked for."""
        self._engine = self._fast = None
