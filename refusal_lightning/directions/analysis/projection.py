"""Projection of activations on a direction: how far along it each prompt lies."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from refusal_lightning.directions.vectors import unit

QUANTILES = {"q05": 0.05, "q25": 0.25, "q50": 0.5, "q75": 0.75, "q95": 0.95}
"""The quantiles of ``spread``, by the names of its values."""


def projections(
    activations: Float[np.ndarray, "prompt position d_model"], direction: Float[np.ndarray, " d_model"]
) -> Float[np.ndarray, "prompt position"]:
    """Signed length of each activation along the unit direction, float64, in the activations' unit.

    A zero direction gives zeros.
    """
    return np.asarray(np.asarray(activations, dtype=np.float64) @ unit(direction))


def spread(values: Float[np.ndarray, prompt * any]) -> dict[str, Float[np.ndarray, "*any"]]:
    """Mean, standard deviation (n - 1; NaN for one prompt) and QUANTILES over prompts, float64."""
    deviation = np.std(values, axis=0, ddof=1) if len(values) > 1 else np.full(values.shape[1:], np.nan)
    quantiles = np.quantile(values, list(QUANTILES.values()), axis=0)
    return {"mean": np.mean(values, axis=0), "sd": deviation, **dict(zip(QUANTILES, quantiles, strict=True))}
