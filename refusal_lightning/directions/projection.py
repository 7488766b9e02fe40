"""Projection of activations on a direction: how far along it each prompt lies."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from jaxtyping import Float

from refusal_lightning.directions.mean_difference import unit


def projections(
    activations: Float[np.ndarray, "prompt position d_model"], direction: Float[np.ndarray, " d_model"]
) -> Float[np.ndarray, "prompt position"]:
    """Signed length of each activation along the unit direction, float64, in the activations' unit.

    A zero direction gives zeros.
    """
    return np.asarray(np.asarray(activations, dtype=np.float64) @ unit(direction))


def projections_by_layer(
    layers: Iterable[Float[np.ndarray, "prompt position d_model"]], direction: Float[np.ndarray, " d_model"]
) -> Float[np.ndarray, "layer prompt position"]:
    """The same at every layer, for one direction; ``layers`` is read one layer at a time."""
    return np.stack([projections(activations, direction) for activations in layers])
