"""The registry of direction estimators: one function per way to draw a direction from two classes of
activations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from jaxtyping import Float

from refusal_lightning.directions.lda import lda
from refusal_lightning.directions.logistic_probe import logistic_probe
from refusal_lightning.directions.mean_difference import mean_difference, unit_mean_difference
from refusal_lightning.directions.principal_component import principal_component

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


def estimate_directions(
    estimator: Estimator,
    layers: Iterable[
        tuple[Float[np.ndarray, "harmful position d_model"], Float[np.ndarray, "harmless position d_model"]]
    ],
) -> Float[np.ndarray, "position layer d_model"]:
    """The candidates' directions, float64, from one (harmful, harmless) pair of arrays per layer, first layer
    first.

    ``layers`` is read one layer at a time: memory holds one layer's activations.
    """
    return np.stack([estimator(harmful, harmless) for harmful, harmless in layers], axis=1)
