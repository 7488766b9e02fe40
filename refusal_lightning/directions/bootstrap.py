"""Resampling prompts with replacement, as weights: every bootstrap of this package draws them here."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float


def bootstrap_weights(
    n_prompts: int, n_resamples: int, rng: np.random.Generator
) -> Float[np.ndarray, "resample prompt"]:
    """How often each prompt is drawn in each resample, as float64 counts; each row sums to ``n_prompts``."""
    return rng.multinomial(n_prompts, np.full(n_prompts, 1 / n_prompts), size=n_resamples).astype(np.float64)


def percentile_interval(
    values: Float[np.ndarray, resample * any], confidence: float = 0.95
) -> Float[np.ndarray, 2 * any]:
    """Lower and upper percentile over resamples (axis 0); NaN where a resample is NaN."""
    tail = (1 - confidence) / 2
    return np.quantile(values, [tail, 1 - tail], axis=0)
