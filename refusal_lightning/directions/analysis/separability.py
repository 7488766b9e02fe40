"""Separability: how well the projection on a candidate tells harmful from harmless held-out activations
(AUROC).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Real

from refusal_lightning.directions.analysis.bootstrap import bootstrap_counts, percentile_interval
from refusal_lightning.directions.vectors import is_zero

Layer = tuple[Float[np.ndarray, "harmful position"], Float[np.ndarray, "harmless position"]]
"""One layer's held-out activations of both classes, each projected on the direction of its position."""

AT_ONCE = 1 << 20
"""Weights (resamples x prompts) that are worked on at a time; each takes about 80 bytes."""


@dataclass(frozen=True, eq=False)
class Separability:
    """AUROC of every candidate with a bootstrap interval over prompts; NaN for a direction that is zero or
    not finite.
    """

    auroc: Float[np.ndarray, "position layer"]
    """The chance that a harmful prompt projects higher than a harmless one, ties counted half; 0 to 1."""
    low: Float[np.ndarray, "position layer"]
    """Lower end of the interval."""
    high: Float[np.ndarray, "position layer"]
    """Upper end of the interval."""


def separability(
    layers: Iterable[Layer], rng: np.random.Generator, n_resamples: int = 1000, confidence: float = 0.95
) -> Separability:
    """AUROC of the projections (see ``projected``) of held-out activations, one layer at a time.

    Use prompts that the directions were not estimated from: on their own training prompts every candidate
    separates. The same resamples serve every candidate, so that differences between candidates are not
    blurred by the draw.
    """
    columns = []
    weights: tuple[np.ndarray, np.ndarray] | None = None
    for harmful, harmless in layers:
        if weights is None:
            n, m = len(harmful), len(harmless)
            weights = (bootstrap_counts(n, n_resamples, rng), bootstrap_counts(m, n_resamples, rng))
        columns.append([_cell(*pair, weights, confidence) for pair in zip(harmful.T, harmless.T, strict=True)])
    auroc_low_high = np.array(columns).transpose(2, 1, 0)
    return Separability(*auroc_low_high)


def projected(
    activations: Float[np.ndarray, "prompt position d_model"], directions: Float[np.ndarray, "position d_model"]
) -> Float[np.ndarray, "prompt position"]:
    """Dot product of each activation with the direction of its position; NaN where that is zero or not finite."""
    out = np.full(activations.shape[:2], np.nan)
    for position, direction in enumerate(directions):
        if np.isfinite(direction).all() and not is_zero(direction):
            out[:, position] = np.asarray(activations[:, position], dtype=np.float64) @ direction
    return out


def auroc(
    harmful: Float[np.ndarray, " harmful"],
    harmless: Float[np.ndarray, " harmless"],
    harmful_weights: Real[np.ndarray, "resample harmful"] | None = None,
    harmless_weights: Real[np.ndarray, "resample harmless"] | None = None,
) -> Float[np.ndarray, " resample"]:
    """Area under the ROC curve by ranks, ties counted half (Mann-Whitney), for each row of weights.

    Weights count how often each value is drawn; without them there is one row of ones. Values are sorted once
    for all rows. NaN if any value is.
    """
    if harmful_weights is None or harmless_weights is None:
        harmful_weights, harmless_weights = np.ones((1, len(harmful))), np.ones((1, len(harmless)))
    at_once = max(1, AT_ONCE // (len(harmful) + len(harmless)))
    if len(harmful_weights) > at_once:  # a few copies of the weights, sorted: not of all rows at a time
        parts = range(0, len(harmful_weights), at_once)
        pairs_of = ((harmful_weights[i : i + at_once], harmless_weights[i : i + at_once]) for i in parts)
        return np.concatenate([auroc(harmful, harmless, *pair) for pair in pairs_of])
    pooled = np.concatenate([harmful, harmless])
    if np.isnan(pooled).any():
        return np.full(len(harmful_weights), np.nan)
    order = np.argsort(pooled, kind="stable")
    ordered = pooled[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    rows = len(harmful_weights)
    of_harmful = np.concatenate([harmful_weights, np.zeros((rows, len(harmless)))], axis=1)[:, order]
    of_harmless = np.concatenate([np.zeros((rows, len(harmful))), harmless_weights], axis=1)[:, order]
    upper, lower = (np.add.reduceat(w, starts, axis=1) for w in (of_harmful, of_harmless))
    below = np.cumsum(lower, axis=1) - 0.5 * lower
    pairs = harmful_weights.sum(axis=1) * harmless_weights.sum(axis=1)
    return np.asarray(np.sum(upper * below, axis=1) / pairs)


def _cell(
    harmful: Float[np.ndarray, " harmful"],
    harmless: Float[np.ndarray, " harmless"],
    weights: tuple[np.ndarray, np.ndarray],
    confidence: float,
) -> tuple[float, float, float]:
    """AUROC and its interval for one candidate."""
    low, high = percentile_interval(auroc(harmful, harmless, *weights), confidence)
    return float(auroc(harmful, harmless)[0]), float(low), float(high)
