"""Difference of means: the paper's direction (section 2.3, equation 2), its unit-norm form, and one per
category.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

ZERO_NORM = 1e-8
"""A direction of at most this norm counts as zero: the epsilon that the paper's code adds to norms.

Below it that code's ablation removes less than half. It covers sums that round: the authors' own tensor for
Gemma has norms of 1e-14 at layer 0, where the true difference is 0.
"""


def mean_difference(
    harmful: Float[np.ndarray, "harmful position d_model"],
    harmless: Float[np.ndarray, "harmless position d_model"],
) -> Float[np.ndarray, "position d_model"]:
    """Mean over harmful prompts minus mean over harmless prompts, accumulated in float64, not normalised.

    Where every prompt has the same float32 (or narrower) activation, as at layer 0, the result is exactly 0
    for up to 2^29 prompts: a sum of n equal 24-bit numbers is exact in float64, and so is its division by n.
    """
    mean_harmful, mean_harmless = (np.asarray(x).mean(axis=0, dtype=np.float64) for x in (harmful, harmless))
    return np.asarray(mean_harmful - mean_harmless)


def unit_mean_difference(
    harmful: Float[np.ndarray, "harmful position d_model"],
    harmless: Float[np.ndarray, "harmless position d_model"],
) -> Float[np.ndarray, "position d_model"]:
    """The mean difference divided by its norm; a zero difference stays zero.

    Ablation does not see the change, addition does: the same push at every layer, whatever the residual's
    scale.
    """
    return unit_difference(mean_difference(harmful, harmless))


def unit_difference(difference: Float[np.ndarray, "*any d_model"]) -> Float[np.ndarray, "*any d_model"]:
    """Divided by its norm; zero (``ZERO_NORM``) stays zero."""
    return np.where(is_zero(difference)[..., None], 0.0, unit(difference))


def category_mean_differences(
    harmful: Float[np.ndarray, "harmful position d_model"],
    harmless: Float[np.ndarray, "harmless position d_model"],
    categories: Sequence[str],
) -> dict[str, Float[np.ndarray, "position d_model"]]:
    """One mean difference per category of the harmful prompts, each against all harmless prompts.

    ``categories`` names the category of each harmful prompt. Keys are sorted.
    """
    if len(categories) != len(harmful):
        raise ValueError(f"{len(categories)} categories for {len(harmful)} harmful prompts")
    members = np.asarray(categories)
    return {name: mean_difference(harmful[members == name], harmless) for name in sorted(set(categories))}


def is_zero(directions: Float[np.ndarray, "*any d_model"]) -> Bool[np.ndarray, "*any"]:
    """Which directions count as zero (``ZERO_NORM``); NaN does not."""
    return np.asarray(np.linalg.norm(np.asarray(directions, dtype=np.float64), axis=-1) <= ZERO_NORM)


def unit(vectors: Float[np.ndarray, "*any d_model"]) -> Float[np.ndarray, "*any d_model"]:
    """Vectors divided by their norms, float64; zero vectors stay zero, NaN stays NaN."""
    vectors = np.asarray(vectors, dtype=np.float64)
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms != 0)
