"""Cosine similarity between candidates."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from refusal_lightning.directions.estimators.mean_difference import is_zero, unit


def cosine_matrix(
    directions: Float[np.ndarray, "position layer d_model"],
) -> Float[np.ndarray, "position layer position layer"]:
    """Cosine between every two candidates; NaN where one is zero (its direction is undefined)."""
    shape = directions.shape[:2]
    units = _defined_units(directions.reshape(-1, directions.shape[-1]))
    return (units @ units.T).reshape(*shape, *shape)


def cosine_to(
    directions: Float[np.ndarray, "*any d_model"], direction: Float[np.ndarray, " d_model"]
) -> Float[np.ndarray, "*any"]:
    """Cosine of each of ``directions`` with one direction; NaN where either is zero."""
    return np.asarray(_defined_units(directions) @ _defined_units(direction))


def _defined_units(vectors: Float[np.ndarray, "*any d_model"]) -> Float[np.ndarray, "*any d_model"]:
    return np.where(is_zero(vectors)[..., None], np.nan, unit(vectors))
