"""Activations of prompts too many for memory: read a block at a time, as often as a computation needs them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
from jaxtyping import Float, Int

FEW = 2048
"""Up to so many prompts, or as many as d_model, estimators work on all of them, in a matrix of prompts by prompts;
above, in passes, on a matrix of d_model by d_model."""


class Passes(Protocol):
    """One class's activations at one position."""

    def __len__(self) -> int:
        """The number of prompts."""

    def __iter__(self) -> Iterator[tuple[Int[np.ndarray, " block"], Float[np.ndarray, "block d_model"]]]:
        """(places among the prompts, activations, float64), block by block until each prompt was there once."""


Means = tuple[Float[np.ndarray, " d_model"], Float[np.ndarray, " d_model"]]
"""Of the harmful and of the harmless activations."""

PassesEstimator = Callable[[Passes, Passes], Float[np.ndarray, " d_model"]]
"""From the activations of harmful and of harmless prompts at one position to a direction, float64."""


def mean(activations: Passes) -> Float[np.ndarray, " d_model"]:
    """Mean over the prompts, float64."""
    total = sum(rows.sum(axis=0) for _, rows in activations)
    return np.asarray(total / len(activations))


def add_scatter(
    total: Float[np.ndarray, "d_model d_model"],
    activations: Passes,
    centre: Float[np.ndarray, " d_model"],
    scale: float = 1.0,
) -> float:
    """Add the sum of yy^T to ``total``, with y = (x - centre) scale; returns the sum of |y|^4."""
    fourth = 0.0
    for _, rows in activations:
        centred = (rows - centre) * scale
        total += centred.T @ centred
        fourth += float(np.sum(np.sum(centred**2, axis=1) ** 2))
    return fourth
