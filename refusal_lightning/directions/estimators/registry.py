"""The registry of direction estimators: one function per way to draw a direction from two classes of
activations.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from refusal_lightning.directions.estimators.lda import lda, lda_in_passes
from refusal_lightning.directions.estimators.logistic_probe import logistic_probe, logistic_probe_in_passes
from refusal_lightning.directions.estimators.mean_difference import mean_difference, unit_mean_difference
from refusal_lightning.directions.estimators.passes import (
    PassesEstimator,
    mean_difference_in_passes,
    unit_mean_difference_in_passes,
)
from refusal_lightning.directions.estimators.principal_component import (
    principal_component,
    principal_component_in_passes,
)

Estimator = Callable[
    [Float[np.ndarray, "harmful position d_model"], Float[np.ndarray, "harmless position d_model"]],
    Float[np.ndarray, "position d_model"],
]
"""From one layer's activations of harmful and of harmless prompts to a direction per position, float64.

Every direction points from harmless to harmful. Those that are not differences of means have the norm of the
mean difference at the same place (``oriented``), so that adding them pushes as far and so
that a zero mean difference marks a place without a direction for all of them.
"""

ESTIMATORS: dict[str, Estimator] = {
    "mean_difference": mean_difference,
    "unit_mean_difference": unit_mean_difference,
    "principal_component": principal_component,
    "logistic_probe": logistic_probe,
    "lda": lda,
}
"""By the name that configs use. ``mean_difference`` is the paper's."""

IN_PASSES: dict[str, PassesEstimator] = {
    "mean_difference": mean_difference_in_passes,
    "unit_mean_difference": unit_mean_difference_in_passes,
    "principal_component": principal_component_in_passes,
    "logistic_probe": logistic_probe_in_passes,
    "lda": lda_in_passes,
}
"""The same, one position at a time, of prompts too many for memory; equal but for rounding."""
