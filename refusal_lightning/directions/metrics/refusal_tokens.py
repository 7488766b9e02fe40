"""Which first tokens tell a refusal, from the model's own first-token probabilities on the two kinds of prompts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

LEAST_PROBABILITY = 0.01
"""A token must be this likely on harmful prompts, on average: rarer ones are noise in the vocabulary's tail."""
TIMES_LIKELIER = 2.0
"""And this many times likelier than on harmless ones."""
SHARE_OF_BEST = 0.25
"""And its difference at least this share of the largest difference, so that the score rests on what matters."""


@dataclass(frozen=True)
class FirstToken:
    """A token and its mean probability of being the answer's first, on each kind of prompts."""

    token: int
    harmful: float
    harmless: float


def mean_probabilities(batches: Iterable[Float[Tensor, "prompt vocab"]]) -> Float[Tensor, " vocab"]:
    """Mean over prompts of the next-token probabilities (softmax in float64), prompts given in batches."""
    total, count = torch.zeros((), dtype=torch.float64), 0
    for logits in batches:
        total = total + logits.double().softmax(dim=-1).sum(dim=0)
        count += len(logits)
    return total / count


def likelier_on_harmful(
    harmful: Float[Tensor, " vocab"], harmless: Float[Tensor, " vocab"], most: int = 8
) -> list[FirstToken]:
    """Tokens that are much likelier on harmful prompts, the largest difference first; at most ``most``, maybe none."""
    difference = harmful - harmless
    found = (
        (harmful >= LEAST_PROBABILITY)
        & (harmful >= TIMES_LIKELIER * harmless)
        & (difference >= SHARE_OF_BEST * difference.max())
    )
    order = sorted(found.nonzero().flatten().tolist(), key=lambda token: (-float(difference[token]), token))
    return [FirstToken(token, float(harmful[token]), float(harmless[token])) for token in order[:most]]
