"""The mean difference, of norm 1."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from refusal_lightning.directions.estimators.mean_difference import mean_difference
from refusal_lightning.directions.estimators.passes import Passes, mean
from refusal_lightning.directions.estimators.spec import EstimatorSpec
from refusal_lightning.directions.vectors import unit_or_zero


def unit_mean_difference(
    harmful: Float[np.ndarray, "harmful position d_model"],
    harmless: Float[np.ndarray, "harmless position d_model"],
) -> Float[np.ndarray, "position d_model"]:
    """The mean difference divided by its norm; a zero difference stays zero.

    Ablation does not see the change, addition does: the same push at every layer, whatever the residual's
    scale.
    """
    return unit_or_zero(mean_difference(harmful, harmless))


def unit_mean_difference_in_passes(harmful: Passes, harmless: Passes) -> Float[np.ndarray, " d_model"]:
    """The same at one position, of prompts too many for memory."""
    return unit_or_zero(mean(harmful) - mean(harmless))


SPEC = EstimatorSpec(
    "mean difference of norm 1", unit_mean_difference, unit_mean_difference_in_passes, along_mean_difference=True
)
