"""What runs a model's passes: hooks by TransformerLens names, whatever modules stand behind them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from refusal_lightning.models.blocks import BlockFacts

HookPairs = Sequence[tuple[str, Callable[[Tensor, Any], Any]]]
"""Hook names, and functions ``(activation, hook) -> changed activation``, or None where nothing changes."""


class Engine(Protocol):
    """A causal language model with hook points: interventions act in it, and activations are recorded from it."""

    @property
    def kind(self) -> str:
        """Its name, as runs record it: bridge, or one of ``ENGINES``."""

    @property
    def model(self) -> Any:
        """The Hugging Face model, for passes with a cache or with positions of one's own. Hooks act in it too."""

    @property
    def n_layers(self) -> int: ...

    @property
    def facts(self) -> BlockFacts:
        """What its blocks give back and write."""

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """Its decoder blocks, which ``skip_blocks`` steps over."""

    @property
    def input_device(self) -> torch.device:
        """Where token ids go; the model may be spread over several devices."""

    @property
    def hook_names(self) -> Collection[str]:
        """TransformerLens names: ``blocks.3.hook_resid_pre``."""

    def hooks(self, fwd_hooks: HookPairs) -> AbstractContextManager[Any]:
        """Hooks for the body; they come off at its end, also after an exception."""

    def count_hooks(self) -> int:
        """Hooks that are on its hook points."""

    def __call__(
        self,
        ids: Int[Tensor, "prompt token"],
        attention_mask: Int[Tensor, "prompt token"] | None = None,
        logits_to_keep: int = 0,
    ) -> Float[Tensor, "prompt token vocab"]:
        """Logits of a pass over whole left-padded prompts, at the last ``logits_to_keep`` tokens or (0) at all."""
