"""Drawing the next token with a generator that belongs to the row alone."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

AT_A_TIME = 32
"""Rows whose distributions are sorted together: a large vocabulary takes megabytes per row in float64."""


@dataclass(frozen=True)
class Sampling:
    """Draw from the softmax of logits / ``temperature``, within the likeliest tokens that make up ``top_p``."""

    temperature: float
    top_p: float
    seed: int

    def draws(self, prompt_hash: str, intervention: str, n: int) -> Float[Tensor, " token"]:
        """The row's random numbers, uniform in [0, 1), float64, one per token of its answer.

        They depend on seed, prompt and intervention only, so the batch a row is in has no say in its text.
        """
        name = f"{self.seed}\n{prompt_hash}\n{intervention}"
        seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little", signed=True)
        return torch.rand(n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))

    def choose(self, logits: Float[Tensor, "row vocab"], draws: Float[Tensor, " row"]) -> Int[Tensor, " row"]:
        """Inverse of the cumulated distribution, likeliest token first, at each row's draw; in float64."""
        parts = zip(logits.split(AT_A_TIME), draws.to(logits.device).split(AT_A_TIME), strict=True)
        return torch.cat([self._choose(*part) for part in parts])

    def _choose(self, logits: Float[Tensor, "row vocab"], draws: Float[Tensor, " row"]) -> Int[Tensor, " row"]:
        ordered, tokens = (logits.double() / self.temperature).softmax(-1).sort(dim=-1, descending=True, stable=True)
        cumulated = ordered.cumsum(-1)
        # Kept are the tokens up to the one with which the sum reaches top_p; the likeliest always is.
        kept = (cumulated - ordered < self.top_p).sum(-1, keepdim=True)
        reach = draws.unsqueeze(-1) * cumulated.gather(-1, kept - 1)
        place = (cumulated <= reach).sum(-1, keepdim=True)
        return tokens.gather(-1, place.minimum(kept - 1)).squeeze(-1)
