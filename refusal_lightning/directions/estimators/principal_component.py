"""Top principal component of the differences between harmful and harmless activations."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from refusal_lightning.directions.estimators.oriented import solve_in_passes, solve_per_position
from refusal_lightning.directions.estimators.passes import Means, Passes, add_scatter
from refusal_lightning.directions.estimators.spec import EstimatorSpec


def principal_component(
    harmful: Float[np.ndarray, "harmful position d_model"],
    harmless: Float[np.ndarray, "harmless position d_model"],
) -> Float[np.ndarray, "position d_model"]:
    """The direction along which differences harmful minus harmless are largest in mean square, per position.

    After representation reading (Zou et al., arXiv:2310.01405, section 3.1), which takes the first principal
    component of paired differences. Refusal data has no natural pairs, so ours takes all pairs at once: the
    mean of (h - s)(h - s)^T over them is cov(h) + cov(s) + dd^T, with d the mean difference. It is not
    centred, which would remove d. Sign and norm are those of the mean difference.
    """
    return solve_per_position(_top_component, harmful, harmless)


def principal_component_in_passes(harmful: Passes, harmless: Passes) -> Float[np.ndarray, " d_model"]:
    """The same at one position, of prompts too many for memory; takes some matrices of d_model by d_model."""
    return solve_in_passes(_top_component_in_passes, harmful, harmless)


def _top_component(
    harmful: Float[np.ndarray, "harmful d_model"],
    harmless: Float[np.ndarray, "harmless d_model"],
    difference: Float[np.ndarray, " d_model"],
) -> Float[np.ndarray, " d_model"]:
    """Top eigenvector, through the Gram matrix of rows whose outer products sum to that mean (prompts <<
    d_model).
    """
    rows = [
        _centred(harmful) / np.sqrt(len(harmful)),
        _centred(harmless) / np.sqrt(len(harmless)),
        difference[None],
    ]
    factor = np.concatenate(rows)
    if len(factor) > factor.shape[1]:
        return np.asarray(np.linalg.eigh(factor.T @ factor)[1][:, -1])
    return np.asarray(np.linalg.eigh(factor @ factor.T)[1][:, -1] @ factor)


def _top_component_in_passes(harmful: Passes, harmless: Passes, means: Means) -> Float[np.ndarray, " d_model"]:
    difference = means[0] - means[1]
    total = np.outer(difference, difference)
    for activations, centre in zip((harmful, harmless), means, strict=True):
        add_scatter(total, activations, centre, scale=1 / np.sqrt(len(activations)))
    return np.asarray(np.linalg.eigh(total)[1][:, -1])


def _centred(x: Float[np.ndarray, "prompt d_model"]) -> Float[np.ndarray, "prompt d_model"]:
    return x - x.mean(axis=0)


SPEC = EstimatorSpec(
    "first principal component of the paired differences", principal_component, principal_component_in_passes
)
