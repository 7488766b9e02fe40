"""The registry of estimators: one file and one line for each way to draw a direction from activations."""

from __future__ import annotations

from refusal_lightning.directions.estimators import (
    category_means,
    lda,
    logistic_probe,
    mean_difference,
    principal_component,
    unit_mean_difference,
)
from refusal_lightning.directions.estimators.spec import EstimatorSpec
from refusal_lightning.registry import Registry

ESTIMATORS: Registry[EstimatorSpec] = Registry(
    "estimator",
    {
        "mean_difference": mean_difference.SPEC,
        "unit_mean_difference": unit_mean_difference.SPEC,
        "category_means": category_means.SPEC,
        "principal_component": principal_component.SPEC,
        "logistic_probe": logistic_probe.SPEC,
        "lda": lda.SPEC,
    },
)
"""By the name that configurations use."""
