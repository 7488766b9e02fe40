"""Cosine similarity between candidates."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from refusal_lightning.directions.vectors import is_zero, unit


def cosine_matrix(
    directions: Float[np.ndarray, "position layer d_model"],
) -> Float[np.ndarray, "position layer position layer"]:
    """Cosine between every two candidates; NaN where one is zero (its direction is undefined)."""
    shape = directions.shape[:2]
    vectors = directions.reshape(-1, directions.shape[-1])
    units = np.where(is_zero(vectors)[..., None], np.nan, unit(vectors))
    return (units @ units.T).reshape(*shape, *shape)
