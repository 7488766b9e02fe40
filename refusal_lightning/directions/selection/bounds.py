"""Bounds on scores not yet seen, so that a candidate can be dropped before its sum is complete, provably."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

SLACK = 1e-6
"""How far past a threshold a bound must be before it counts as proof: room for rounding in sums and in
float32.
"""


def refusal_score_bound(epsilon: float = 1e-8) -> float:
    """The largest absolute value that ``refusal_scores`` can return.

    log(p + e) - log(1 - p + e) rises with p, so its extremes are at p = 0 and p = 1: +-(log(1 + e) - log(e)),
    18.42 for e = 1e-8. Softmax rounding can push p past 1 by some 1e-13, which moves log(1 - p + e) by about
    1e-13 / e; the bound is widened by ten times that.
    """
    return math.log1p(epsilon) - math.log(epsilon) + 1e-12 / epsilon


def kl_lower_bounds(baseline_logits: Float[Tensor, "prompt vocab"], epsilon: float = 1e-6) -> Float[Tensor, " prompt"]:
    """Per prompt, a number that ``kl_scores(baseline_logits, any logits, epsilon)`` never falls below;
    float64.

    Without the epsilon it would be 0. With it, K = sum p log((p + e) / (q + e)) can be negative. By Jensen's
    inequality with the weights p (they sum to 1; the logarithm is concave),

        -K = sum p log((q + e) / (p + e)) <= log sum p (q + e) / (p + e) = log(sum q a + e sum a)

    with a = p / (p + e), and sum q a <= max a because q sums to 1. Hence K >= -log(max a + e sum a). For a
    peaked baseline this is almost 0: ``sum a`` counts the tokens whose probability is well above e. Lowered
    by 1e-9 for rounding.
    """
    p = torch.softmax(baseline_logits.to(torch.float64), dim=-1)
    a = p / (p + epsilon)
    return -torch.log(a.amax(dim=-1) + epsilon * a.sum(dim=-1)) - 1e-9


class PartialMean:
    """The mean of n per-prompt scores of which some are seen: an interval that narrows to one value.

    ``low <= mean <= high`` holds whatever the unseen scores are, given that each lies within its bounds. A
    NaN among the seen makes both NaN, which proves nothing.
    """

    def __init__(self, lower: Float[np.ndarray, " prompt"], upper: Float[np.ndarray, " prompt"]) -> None:
        """``lower`` and ``upper`` bound each prompt's score; ``math.inf`` where nothing is known."""
        self._low = np.array(lower, dtype=np.float64)
        self._high = np.array(upper, dtype=np.float64)
        self._seen = np.zeros(len(self._low), dtype=bool)

    def add(self, prompts: Sequence[int], scores: Float[np.ndarray, " seen"]) -> None:
        """Enter the scores of some prompts, by their index."""
        index = np.asarray(prompts, dtype=np.intp)
        self._low[index] = self._high[index] = scores
        self._seen[index] = True

    @property
    def n_seen(self) -> int:
        """How many prompts' scores are in."""
        return int(self._seen.sum())

    @property
    def complete(self) -> bool:
        """Whether all are in, so that ``low`` is the mean."""
        return bool(self._seen.all())

    @property
    def low(self) -> float:
        """The least the mean can be."""
        return float(self._low.mean())

    @property
    def high(self) -> float:
        """The most the mean can be."""
        return float(self._high.mean())
