"""Facts about a model's blocks, as an engine has them (``engines/facts.py`` finds them)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

STREAM = ("resid_pre", "resid_mid", "resid_post")
"""A block's hook points where the residual stream itself can be reached, as far as an architecture has them."""


@dataclass(frozen=True)
class BlockFacts:
    """Facts about the blocks of a model."""

    n_given: tuple[int | None, ...]
    """Per block: how many values the tuple has that it gives back, None where it gives a tensor."""
    adds_up: bool
    """Whether every block's output is its input and what the attention and MLP hooks see, within rounding."""
    problem: str | None
    """Why no direction can be read from or ablated in this model, if so."""

    def output(self, layer: int, residual: Tensor) -> Any:
        """What the block would give back whose output is ``residual``."""
        n_given = self.n_given[layer]
        return residual if n_given is None else (residual, *[None] * (n_given - 1))
