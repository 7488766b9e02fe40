"""What estimators other than the mean difference share: one solve per position, sign and norm of the mean
difference.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from refusal_lightning.directions.estimators.mean_difference import mean_difference
from refusal_lightning.directions.estimators.passes import Means, Passes, mean
from refusal_lightning.directions.vectors import unit

Solve = Callable[
    [
        Float[np.ndarray, "harmful d_model"],
        Float[np.ndarray, "harmless d_model"],
        Float[np.ndarray, " d_model"],
    ],
    Float[np.ndarray, " d_model"],
]
"""From one position's activations, float64, and their mean difference to a direction of any sign and norm."""


def solve_per_position(
    solve: Solve,
    harmful: Float[np.ndarray, "harmful position d_model"],
    harmless: Float[np.ndarray, "harmless position d_model"],
) -> Float[np.ndarray, "position d_model"]:
    """``solve`` at each position, oriented. A position whose activations are not all finite gives NaN."""
    differences = mean_difference(harmful, harmless)
    directions = np.full_like(differences, np.nan)
    for position, difference in enumerate(differences):
        if np.isfinite(difference).all():
            h, s = (np.asarray(x[:, position], dtype=np.float64) for x in (harmful, harmless))
            directions[position] = oriented(solve(h, s, difference), difference)
    return directions


def solve_in_passes(
    solve: Callable[[Passes, Passes, Means], Float[np.ndarray, " d_model"]], harmful: Passes, harmless: Passes
) -> Float[np.ndarray, " d_model"]:
    """``solve`` oriented (see ``oriented``); NaN where activations are not all finite."""
    means = mean(harmful), mean(harmless)
    difference = means[0] - means[1]
    if not np.isfinite(difference).all():
        return np.full_like(difference, np.nan)
    return oriented(solve(harmful, harmless, means), difference)


def oriented(
    direction: Float[np.ndarray, " d_model"], difference: Float[np.ndarray, " d_model"]
) -> Float[np.ndarray, " d_model"]:
    """``direction`` with the sign (non-negative dot product) and the norm of the mean ``difference``."""
    sign = -1.0 if direction @ difference < 0 else 1.0
    return sign * float(np.linalg.norm(difference)) * unit(direction)
