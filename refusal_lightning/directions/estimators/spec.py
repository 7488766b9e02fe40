"""What an entry of the registry of estimators is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Float

from refusal_lightning.directions.estimators.passes import PassesEstimator

OfRows = Callable[
    [Float[np.ndarray, "harmful position d_model"], Float[np.ndarray, "harmless position d_model"]],
    Float[np.ndarray, "position d_model"],
]
"""From one layer's activations of harmful and of harmless prompts to a direction per position, float64."""


class ClassMeans(Protocol):
    """Means of the training prompts' activations, float64, from sums: the prompts are never all in memory."""

    def harmful(self) -> Float[np.ndarray, "layer position d_model"]:
        """Mean over all harmful prompts."""

    def harmless(self) -> Float[np.ndarray, "layer position d_model"]:
        """Mean over all harmless prompts."""

    def harmful_by_category(self) -> list[Float[np.ndarray, "layer position d_model"]]:
        """Mean over the harmful prompts of each category."""


OfMeans = Callable[[ClassMeans], Float[np.ndarray, "layer position d_model"]]
"""From class means to a direction for every layer and position."""


@dataclass(frozen=True)
class EstimatorSpec:
    """A way to draw a direction from two classes of activations: by ``of_rows``, or by ``of_means`` alone.

    Every direction points from harmless to harmful. Those that are not differences of means have the norm of the
    mean difference at the same place (``oriented``), so that adding them pushes as far and so that a zero mean
    difference marks a place without a direction for all of them.
    """

    label: str
    """What messages call it."""
    of_rows: OfRows | None = None
    in_passes: PassesEstimator | None = None
    """The same as ``of_rows`` but for rounding, for prompts too many to be in memory; without it they all are."""
    of_means: OfMeans | None = None
    along_mean_difference: bool = False
    """Whether its directions differ from the paper's by their norm at most."""

    def __post_init__(self) -> None:
        if (self.of_rows is None) == (self.of_means is None):
            raise ValueError(f"the estimator {self.label!r} must have of_rows or of_means, and not both")
        if self.in_passes is not None and self.of_rows is None:
            raise ValueError(f"the estimator {self.label!r} has in_passes and no of_rows, whose equal it should be")
