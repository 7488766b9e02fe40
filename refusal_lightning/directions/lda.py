"""Linear discriminant analysis: the mean difference whitened by the within-class covariance."""

from __future__ import annotations

from functools import partial

import numpy as np
from jaxtyping import Float

from refusal_lightning.directions.oriented import solve_per_position


def lda(
    harmful: Float[np.ndarray, "harmful position d_model"],
    harmless: Float[np.ndarray, "harmless position d_model"],
    shrinkage: float | None = None,
) -> Float[np.ndarray, "position d_model"]:
    """((1 - a) S + a m I)^-1 d per position: d the mean difference, S the pooled within-class covariance.

    m is the mean eigenvalue of S. ``shrinkage`` a lies in (0, 1]; None takes Ledoit and Wolf's optimum (A
    well-conditioned estimator for large-dimensional covariance matrices, 2004, section 3.3), which prompts <<
    d_model need. Sign and norm are those of the mean difference; a = 1 gives the mean difference itself.
    """
    if shrinkage is not None and not 0 < shrinkage <= 1:
        raise ValueError(f"shrinkage must be above 0 and at most 1, got {shrinkage}")
    return solve_per_position(partial(_whitened, shrinkage=shrinkage), harmful, harmless)


def _whitened(
    harmful: Float[np.ndarray, "harmful d_model"],
    harmless: Float[np.ndarray, "harmless d_model"],
    difference: Float[np.ndarray, " d_model"],
    shrinkage: float | None,
) -> Float[np.ndarray, " d_model"]:
    """By Woodbury's identity in the space of prompts, never forming the covariance."""
    centred = np.concatenate([x - x.mean(axis=0) for x in (harmful, harmless)])
    n, width = centred.shape
    gram = centred @ centred.T
    mean_eigenvalue = np.trace(gram) / (n * width)
    if mean_eigenvalue == 0:
        return difference
    a = ledoit_wolf_shrinkage(gram, width) if shrinkage is None else shrinkage
    ridge = n * a * mean_eigenvalue
    solved = np.linalg.solve(ridge * np.eye(n) + (1 - a) * gram, centred @ difference)
    return np.asarray(difference - (1 - a) * (solved @ centred))


def ledoit_wolf_shrinkage(gram: Float[np.ndarray, "prompt prompt"], width: int) -> float:
    """Ledoit and Wolf's shrinkage towards m I, from the Gram matrix of n centred rows of this width.

    With S the covariance (norms are Frobenius): |S - m I|^2 = |S|^2 - width m^2 is what shrinking loses;
    sum_k |x_k x_k^T - S|^2 / n^2 = (sum_k |x_k|^4 - n |S|^2) / n^2 estimates the error of S. Returns their
    ratio within [1e-6, 1]; the floor keeps the solve regular.
    """
    n = len(gram)
    squared_norm = np.sum(gram**2) / n**2
    spread = squared_norm - (np.trace(gram) / n) ** 2 / width
    error = (np.sum(np.diag(gram) ** 2) - n * squared_norm) / n**2
    return float(np.clip(error / spread, 1e-6, 1.0)) if spread > 0 else 1.0
