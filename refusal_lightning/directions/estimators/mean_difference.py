"""Difference of means: the paper's direction (section 2.3, equations 1 and 2)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from refusal_lightning.directions.estimators.spec import ClassMeans, EstimatorSpec


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


def difference_of_means(means: ClassMeans) -> Float[np.ndarray, "layer position d_model"]:
    """The same at every layer, of means that sums over the store have given."""
    return means.harmful() - means.harmless()


SPEC = EstimatorSpec("mean difference, the paper's", of_means=difference_of_means, along_mean_difference=True)
