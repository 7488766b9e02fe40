"""Linear discriminant analysis: the mean difference whitened by the within-class covariance."""

from __future__ import annotations

from functools import partial

import numpy as np
from jaxtyping import Float

from refusal_lightning.directions.estimators.oriented import solve_in_passes, solve_per_position
from refusal_lightning.directions.estimators.passes import Means, Passes, add_scatter
from refusal_lightning.directions.estimators.spec import EstimatorSpec


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
    _check(shrinkage)
    return solve_per_position(partial(_whitened, shrinkage=shrinkage), harmful, harmless)


def lda_in_passes(harmful: Passes, harmless: Passes, shrinkage: float | None = None) -> Float[np.ndarray, " d_model"]:
    """The same at one position, of prompts too many for memory; takes three matrices of d_model by d_model."""
    _check(shrinkage)
    return solve_in_passes(partial(_whitened_in_passes, shrinkage=shrinkage), harmful, harmless)


def _check(shrinkage: float | None) -> None:
    if shrinkage is not None and not 0 < shrinkage <= 1:
        raise ValueError(f"shrinkage must be above 0 and at most 1, got {shrinkage}")


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
    gram *= 1 - a
    gram.flat[:: n + 1] += n * a * mean_eigenvalue
    solved = np.linalg.solve(gram, centred @ difference)
    return np.asarray(difference - (1 - a) * (solved @ centred))


def _whitened_in_passes(
    harmful: Passes, harmless: Passes, means: Means, shrinkage: float | None
) -> Float[np.ndarray, " d_model"]:
    """In the space of d_model, of the covariance itself."""
    n, width, difference = len(harmful) + len(harmless), len(means[0]), means[0] - means[1]
    scatter = np.zeros((width, width))
    fourth = sum(add_scatter(scatter, x, centre) for x, centre in zip((harmful, harmless), means, strict=True))
    trace = float(np.trace(scatter))
    if trace == 0:
        return difference
    # Frobenius norms of the Gram matrix and of the scatter are the same.
    a = _optimum(n, width, float(np.vdot(scatter, scatter)), trace, fourth) if shrinkage is None else shrinkage
    scatter *= 1 - a
    scatter.flat[:: width + 1] += a * trace / width
    return np.asarray(np.linalg.solve(scatter, difference))


def ledoit_wolf_shrinkage(gram: Float[np.ndarray, "prompt prompt"], width: int) -> float:
    """Ledoit and Wolf's shrinkage towards m I, from the Gram matrix of n centred rows of this width.

    With S the covariance (norms are Frobenius): |S - m I|^2 = |S|^2 - width m^2 is what shrinking loses;
    sum_k |x_k x_k^T - S|^2 / n^2 = (sum_k |x_k|^4 - n |S|^2) / n^2 estimates the error of S. Returns their
    ratio within [1e-6, 1]; the floor keeps the solve regular.
    """
    return _optimum(len(gram), width, np.sum(gram**2), np.trace(gram), np.sum(np.diag(gram) ** 2))


def _optimum(n: int, width: int, squares: float, trace: float, fourth: float) -> float:
    """The same from the Gram matrix's sum of squares and trace, and the sum over rows of |x|^4."""
    squared_norm = squares / n**2
    spread = squared_norm - (trace / n) ** 2 / width
    error = (fourth - n * squared_norm) / n**2
    return float(np.clip(error / spread, 1e-6, 1.0)) if spread > 0 else 1.0


SPEC = EstimatorSpec("mean difference whitened by the within-class covariance", lda, lda_in_passes)
