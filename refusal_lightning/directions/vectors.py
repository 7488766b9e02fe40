"""Directions as vectors: which count as zero, and unit vectors."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

ZERO_NORM = 1e-8
"""A direction of at most this norm counts as zero: the epsilon that the paper's code adds to norms.

Below it that code's ablation removes less than half. It covers sums that round: the authors' own tensor for
Gemma has norms of 1e-14 at layer 0, where the true difference is 0.
"""


def is_zero(directions: Float[np.ndarray, "*any d_model"]) -> Bool[np.ndarray, "*any"]:
    """Which directions count as zero (``ZERO_NORM``); NaN does not."""
    return np.asarray(np.linalg.norm(np.asarray(directions, dtype=np.float64), axis=-1) <= ZERO_NORM)


def unit(vectors: Float[np.ndarray, "*any d_model"]) -> Float[np.ndarray, "*any d_model"]:
    """Vectors divided by their norms, float64; zero vectors stay zero, NaN stays NaN."""
    vectors = np.asarray(vectors, dtype=np.float64)
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms != 0)


def unit_or_zero(vectors: Float[np.ndarray, "*any d_model"]) -> Float[np.ndarray, "*any d_model"]:
    """Divided by its norm; zero (``ZERO_NORM``) stays zero."""
    return np.where(is_zero(vectors)[..., None], 0.0, unit(vectors))
