"""Stability of the mean difference (see ``stability``) of prompts too many for memory.

The same draws, and the same cosines but for rounding. Each draw's direction is summed up block by block, for all draws
in one pass over the prompts; the draws are kept in a byte per prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, UInt8

from refusal_lightning.directions.analysis.bootstrap import AT_ONCE, bootstrap_counts
from refusal_lightning.directions.estimators.passes import Passes

DRAWN_BYTES = 128 << 20
"""Draws in memory at a time; where they are more, there are more passes."""

Draw = Callable[[int, int], UInt8[np.ndarray, "draw prompt"]]
"""So many draws of so many prompts."""


class StabilityInPasses:
    """What ``stability`` measures, at one position; each method gives ``[draw]``, ``rng`` as the function there."""

    def __init__(self, harmful: Passes, harmless: Passes) -> None:
        self._classes = (harmful, harmless)
        n, (sums, longest) = (len(harmful), len(harmless)), zip(*map(_sum_and_longest, self._classes), strict=True)
        self._centre = (sums[0] + sums[1]) / sum(n)
        self._rounding = (1e-14 * max(longest)) ** 2
        self._all = (sums[0] / n[0] - sums[1] / n[1])[None]

    def bootstrap_cosines(self, rng: np.random.Generator, n_resamples: int) -> Float[np.ndarray, " draw"]:
        """As ``stability.bootstrap_cosines``."""

        def draw(count: int, n: int) -> UInt8[np.ndarray, "draw prompt"]:
            return bootstrap_counts(n, count, rng)

        (directions,) = self._differences(draw, n_resamples, [lambda drawn: drawn])
        return self._cosines(directions, self._all)

    def cosines_by_n_train(self, size: int, rng: np.random.Generator, n_draws: int) -> Float[np.ndarray, " draw"]:
        """As ``stability.cosines_by_n_train`` of one size after another."""
        (directions,) = self._differences(_subsets(size, rng), n_draws, [lambda drawn: drawn == 1])
        return self._cosines(directions, self._all)

    def split_cosines_by_n_train(self, size: int, rng: np.random.Generator, n_draws: int) -> Float[np.ndarray, " draw"]:
        """As ``stability.split_cosines_by_n_train`` of one size after another."""
        halves = [lambda drawn: drawn == 1, lambda drawn: drawn == 2]
        return self._cosines(*self._differences(_subsets(size, rng), n_draws, halves))

    def _differences(
        self, draw: Draw, n_draws: int, weights: Sequence[Callable[[np.ndarray], np.ndarray]]
    ) -> list[Float[np.ndarray, "draw d_model"]]:
        """The draws' mean differences; for each of the weightings of what is drawn."""
        harmful, harmless = (self._means(x, draw, n_draws, weights) for x in self._classes)
        return [first - second for first, second in zip(harmful, harmless, strict=True)]

    def _means(
        self, activations: Passes, draw: Draw, n_draws: int, weights: Sequence[Callable[[np.ndarray], np.ndarray]]
    ) -> list[Float[np.ndarray, "draw d_model"]]:
        """The draws' means of one class, without the pooled mean."""
        means = [np.zeros((n_draws, len(self._centre))) for _ in weights]
        at_once = max(1, DRAWN_BYTES // len(activations))
        for start in range(0, n_draws, at_once):
            drawn = draw(min(at_once, n_draws - start), len(activations))
            parts = [mean[start : start + at_once] for mean in means]
            for places, rows in activations:
                of_block, centred = drawn[:, places], rows - self._centre
                for part, weight in zip(parts, weights, strict=True):
                    part += weight(of_block).astype(np.float64) @ centred
            for part, weight in zip(parts, weights, strict=True):
                part /= [[np.sum(weight(row), dtype=np.int64)] for row in drawn]
        return means

    def _cosines(
        self, first: Float[np.ndarray, "draw d_model"], second: Float[np.ndarray, "draw d_model"]
    ) -> Float[np.ndarray, " draw"]:
        """Row by row; NaN where one is zero."""
        dot = np.sum(first * second, axis=1)
        norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
        return np.divide(dot, norms, out=np.full(len(dot), np.nan), where=norms > self._rounding)


def _sum_and_longest(activations: Passes) -> tuple[Float[np.ndarray, " d_model"], float]:
    total, longest = np.zeros(()), 0.0
    for _, rows in activations:
        total = total + rows.sum(axis=0)
        longest = max(longest, float(np.max(np.linalg.norm(rows, axis=1))))
    return total, longest


def _subsets(size: int, rng: np.random.Generator) -> Draw:
    """1 for ``size`` of n prompts, 2 for another ``size`` disjoint from them as far as there are any, else 0."""

    def draw(count: int, n: int) -> UInt8[np.ndarray, "draw prompt"]:
        out = np.empty((count, n), dtype=np.uint8)
        at_once = max(1, AT_ONCE // n)
        for start in range(0, count, at_once):
            part = out[start : start + at_once]
            rank = rng.permuted(np.tile(np.arange(n), (len(part), 1)), axis=1)
            part[:] = np.where(rank < size, 1, np.where(rank < 2 * size, 2, 0))
        return out

    return draw
