"""Drawing the next token with a generator that belongs to the row alone."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


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
        ordered, tokens = (logits.double() / self.temperature).softmax(-1).sort(-1, descending=True, stable=True)
        cumulated = ordered.cumsum(-1)
        # The last token within top_p is the first at which the sum reaches it.
        within = (cumulated - ordered) < self.top_p
        total = (ordered * within).sum(-1, keepdim=True)
        place = (cumulated <= draws.to(logits.device).unsqueeze(-1) * total).sum(-1, keepdim=True)
        return tokens.gather(-1, place.clamp(max=within.sum(-1, keepdim=True) - 1)).squeeze(-1)
