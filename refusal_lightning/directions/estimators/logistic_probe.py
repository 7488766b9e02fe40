"""A linear probe: logistic regression from activation to class, its weight vector taken as the direction."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial

import numpy as np
from jaxtyping import Float

from refusal_lightning.directions.estimators.oriented import solve_in_passes, solve_per_position
from refusal_lightning.directions.estimators.passes import Means, Passes
from refusal_lightning.directions.estimators.spec import EstimatorSpec


def logistic_probe(
    harmful: Float[np.ndarray, "harmful position d_model"],
    harmless: Float[np.ndarray, "harmless position d_model"],
    l2: float = 1.0,
) -> Float[np.ndarray, "position d_model"]:
    """The weights of an L2-regularised logistic regression, per position; sign and norm of the mean
    difference.

    Minimises sum log-loss + l2 / 2 |w|^2 with a free intercept, on activations centred and divided by one
    number, their root mean variance, so that l2 means the same at every layer (l2 = 1: scikit-learn's default
    C on such data). With prompts << d_model the classes separate and l2 decides: towards 0 the widest margin,
    towards infinity the mean difference.
    """
    return solve_per_position(partial(_weights, l2=l2), harmful, harmless)


def logistic_probe_in_passes(harmful: Passes, harmless: Passes, l2: float = 1.0) -> Float[np.ndarray, " d_model"]:
    """The same at one position, of prompts too many for memory: two passes and some matrices of d_model by d_model for
    each step."""
    return solve_in_passes(partial(_weights_in_passes, l2=l2), harmful, harmless)


def _weights(
    harmful: Float[np.ndarray, "harmful d_model"],
    harmless: Float[np.ndarray, "harmless d_model"],
    difference: Float[np.ndarray, " d_model"],
    l2: float,
) -> Float[np.ndarray, " d_model"]:
    """Weights by Newton's method in the span of the rows, which holds the minimum: at most n unknowns."""
    rows = np.concatenate([harmful, harmless])
    rows = rows - rows.mean(axis=0)
    labels = np.repeat([1.0, 0.0], [len(harmful), len(harmless)])
    scale = np.sqrt(np.mean(rows**2))
    if scale == 0:
        return np.zeros(rows.shape[1])
    rows = rows / scale
    features, basis = _row_span(rows)
    penalty = np.append(np.full(features.shape[1], l2), 0.0)
    solution = _newton(np.column_stack([features, np.ones(len(rows))]), labels, penalty)
    return np.asarray(solution[:-1] @ basis)


def _row_span(
    rows: Float[np.ndarray, "prompt d_model"],
) -> tuple[Float[np.ndarray, "prompt rank"], Float[np.ndarray, "rank d_model"]]:
    """The rows as coordinates in an orthonormal basis of their span (as they are if prompts outnumber
    d_model).
    """
    if len(rows) >= rows.shape[1]:
        return rows, np.eye(rows.shape[1])
    values, vectors = np.linalg.eigh(rows @ rows.T)
    kept = values > 1e-10 * values[-1]
    features = vectors[:, kept] * np.sqrt(values[kept])
    return features, (features / values[kept]).T @ rows


def _newton(
    features: Float[np.ndarray, "prompt feature"],
    labels: Float[np.ndarray, " prompt"],
    penalty: Float[np.ndarray, " feature"],
) -> Float[np.ndarray, " feature"]:
    """Minimise the penalised log-loss; steps are halved until the loss falls. Converges quadratically."""

    def loss(w: np.ndarray) -> float:
        z = features @ w
        return float(np.sum(np.logaddexp(0.0, z) - labels * z) + 0.5 * penalty @ w**2)

    weights = np.zeros(features.shape[1])
    current = loss(weights)
    for _ in range(100):
        p = 0.5 * (1.0 + np.tanh(0.5 * (features @ weights)))
        gradient = features.T @ (p - labels) + penalty * weights
        if np.max(np.abs(gradient)) < 1e-9 * len(labels):
            break
        hessian = (features.T * np.maximum(p * (1 - p), 1e-12)) @ features + np.diag(penalty)
        step = np.linalg.solve(hessian, gradient)
        size = 1.0
        while (trial := loss(weights - size * step)) > current and size > 1e-8:
            size *= 0.5
        if trial >= current:
            break
        weights, current = weights - size * step, trial
    return weights


def _weights_in_passes(harmful: Passes, harmless: Passes, means: Means, l2: float) -> Float[np.ndarray, " d_model"]:
    n = len(harmful), len(harmless)
    centre = (n[0] * means[0] + n[1] * means[1]) / sum(n)
    squares = sum(float(np.sum((rows - centre) ** 2)) for x in (harmful, harmless) for _, rows in x)
    scale = np.sqrt(squares / (sum(n) * len(centre)))
    if scale == 0:
        return np.zeros(len(centre))

    def features() -> Iterator[tuple[slice, Float[np.ndarray, "block feature"]]]:
        """Block by block, with the places among all prompts in the order of this pass, which is that of any other."""
        start = 0
        for x in (harmful, harmless):
            for _, rows in x:
                yield slice(start, start + len(rows)), np.column_stack([(rows - centre) / scale, np.ones(len(rows))])
                start += len(rows)

    penalty = np.append(np.full(len(centre), l2), 0.0)
    return _newton_in_passes(features, np.repeat([1.0, 0.0], n), penalty)[:-1]


def _newton_in_passes(
    features: Callable[[], Iterable[tuple[slice, Float[np.ndarray, "block feature"]]]],
    labels: Float[np.ndarray, " prompt"],
    penalty: Float[np.ndarray, " feature"],
) -> Float[np.ndarray, " feature"]:
    """As ``_newton``; what the features give with the weights is kept, so that halving a step takes no pass."""

    def loss(z: np.ndarray, w: np.ndarray) -> float:
        return float(np.sum(np.logaddexp(0.0, z) - labels * z) + 0.5 * penalty @ w**2)

    weights, along = np.zeros(len(penalty)), np.zeros(len(labels))
    current = loss(along, weights)
    for _ in range(100):
        p = 0.5 * (1.0 + np.tanh(0.5 * along))
        gradient, hessian = penalty * weights, np.diag(penalty)
        for places, block in features():
            gradient += block.T @ (p[places] - labels[places])
            hessian += (block.T * np.maximum(p[places] * (1 - p[places]), 1e-12)) @ block
        if np.max(np.abs(gradient)) < 1e-9 * len(labels):
            break
        step = np.linalg.solve(hessian, gradient)
        moved = np.empty_like(along)
        for places, block in features():
            moved[places] = block @ step
        size = 1.0
        while (trial := loss(along - size * moved, weights - size * step)) > current and size > 1e-8:
            size *= 0.5
        if trial >= current:
            break
        weights, along, current = weights - size * step, along - size * moved, trial
    return weights


SPEC = EstimatorSpec("weights of a logistic probe", logistic_probe, logistic_probe_in_passes)
