"""Resampling prompts with replacement, as weights: every bootstrap of this package draws them here."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, UInt8

AT_ONCE = 1 << 20
"""Counts that are drawn at a time."""


def bootstrap_weights(
    n_prompts: int, n_resamples: int, rng: np.random.Generator
) -> Float[np.ndarray, "resample prompt"]:
    """How often each prompt is drawn in each resample, as float64 counts; each row sums to ``n_prompts``."""
    return rng.multinomial(n_prompts, np.full(n_prompts, 1 / n_prompts), size=n_resamples).astype(np.float64)


def bootstrap_counts(
    n_prompts: int, n_resamples: int, rng: np.random.Generator
) -> UInt8[np.ndarray, "resample prompt"]:
    """The same draws in one byte each, where they are many.

    None is drawn more than 255 times: the chance is below 1e-500 for each, however many there are.
    """
    out = np.empty((n_resamples, n_prompts), dtype=np.uint8)
    at_once = max(1, AT_ONCE // n_prompts)
    for start in range(0, n_resamples, at_once):
        drawn = out[start : start + at_once]
        drawn[:] = rng.multinomial(n_prompts, np.full(n_prompts, 1 / n_prompts), size=len(drawn))
    return out


def percentile_interval(
    values: Float[np.ndarray, resample * any], confidence: float = 0.95
) -> Float[np.ndarray, 2 * any]:
    """Lower and upper percentile over resamples (axis 0); NaN where a resample is NaN."""
    tail = (1 - confidence) / 2
    return np.quantile(values, [tail, 1 - tail], axis=0)
