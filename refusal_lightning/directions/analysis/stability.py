"""Stability of the mean difference: its cosine with itself when prompts are resampled or fewer are taken.

Every resampled direction is a weighted sum of the same activations, its weights summing to zero, so cosines
follow from the Gram matrix of the prompts: d_model is paid for once, however many resamples. Adding one
vector to all activations changes no direction; the pooled mean is taken out first, so that the large common
part does not cost digits.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from refusal_lightning.directions.analysis.bootstrap import bootstrap_weights
from refusal_lightning.errors import UserError

ENOUGH = 0.95
"""The cosine from which on a number of training prompts counts as enough."""


def bootstrap_cosines(
    harmful: Float[np.ndarray, "harmful position d_model"],
    harmless: Float[np.ndarray, "harmless position d_model"],
    rng: np.random.Generator,
    n_resamples: int = 1000,
) -> Float[np.ndarray, "resample position"]:
    """Cosine between the mean difference and the one from prompts drawn with replacement; one layer's
    activations.
    """
    n, m = len(harmful), len(harmless)
    weights = _coefficients(bootstrap_weights(n, n_resamples, rng), bootstrap_weights(m, n_resamples, rng))
    return _cosines(harmful, harmless, weights, _all(n, m))


def cosines_by_n_train(
    harmful: Float[np.ndarray, "harmful position d_model"],
    harmless: Float[np.ndarray, "harmless position d_model"],
    sizes: Sequence[int],
    rng: np.random.Generator,
    n_draws: int = 100,
) -> Float[np.ndarray, "size draw position"]:
    """Cosine between the mean difference of all prompts and that of ``size`` prompts per class, drawn without
    replacement.

    It reaches 1 at the full size by construction: for how well a size does on fresh prompts see
    ``split_cosines_by_n_train``. Raises UserError for a size below 1 or above a class's number of prompts.
    """
    n, m = len(harmful), len(harmless)
    _check(sizes, min(n, m))
    weights = np.concatenate(
        [_coefficients(_subsets(n, s, n_draws, rng)[0], _subsets(m, s, n_draws, rng)[0]) for s in sizes]
    )
    return _cosines(harmful, harmless, weights, _all(n, m)).reshape(len(sizes), n_draws, -1)


def split_cosines_by_n_train(
    harmful: Float[np.ndarray, "harmful position d_model"],
    harmless: Float[np.ndarray, "harmless position d_model"],
    sizes: Sequence[int],
    rng: np.random.Generator,
    n_draws: int = 100,
) -> Float[np.ndarray, "size draw position"]:
    """Cosine between the mean differences of two disjoint draws of ``size`` prompts per class.

    What a second experiment of that size would find. If noise is alike in every dimension, the cosine of one
    draw with the true direction is about the square root of this. Raises UserError for a size below 1 or
    above half of a class.
    """
    n, m = len(harmful), len(harmless)
    _check(sizes, min(n, m) // 2)
    first, second = [], []
    for size in sizes:
        (a, b), (c, d) = _subsets(n, size, n_draws, rng), _subsets(m, size, n_draws, rng)
        first.append(_coefficients(a, c))
        second.append(_coefficients(b, d))
    cosines = _cosines(harmful, harmless, np.concatenate(first), np.concatenate(second))
    return cosines.reshape(len(sizes), n_draws, -1)


def doubling_sizes(largest: int) -> list[int]:
    """1, 2, 4, ... up to and with ``largest``."""
    return [*(1 << i for i in range(max(largest - 1, 0).bit_length())), *([largest] if largest > 0 else [])]


def _check(sizes: Sequence[int], largest: int) -> None:
    bad = [size for size in sizes if not 1 <= size <= largest]
    if bad:
        raise UserError(f"n_train sizes {bad} are out of range: these prompts allow 1 to {largest}")


def _subsets(
    n: int, size: int, n_draws: int, rng: np.random.Generator
) -> tuple[Float[np.ndarray, "draw prompt"], Float[np.ndarray, "draw prompt"]]:
    """Indicator rows of ``size`` of n prompts, and of another ``size`` disjoint from them as far as there are
    any.
    """
    rank = rng.permuted(np.tile(np.arange(n), (n_draws, 1)), axis=1)
    return (rank < size).astype(np.float64), ((rank >= size) & (rank < 2 * size)).astype(np.float64)


def _coefficients(
    harmful: Float[np.ndarray, "draw harmful"], harmless: Float[np.ndarray, "draw harmless"]
) -> Float[np.ndarray, "draw prompt"]:
    """Weights of the activations in each draw's mean difference: +1/n on harmful, -1/m on harmless draws."""
    plus, minus = (w / w.sum(axis=1, keepdims=True) for w in (harmful, harmless))
    return np.concatenate([plus, -minus], axis=1)


def _all(n: int, m: int) -> Float[np.ndarray, "1 prompt"]:
    return _coefficients(np.ones((1, n)), np.ones((1, m)))


def _cosines(
    harmful: Float[np.ndarray, "harmful position d_model"],
    harmless: Float[np.ndarray, "harmless position d_model"],
    first: Float[np.ndarray, "draw prompt"],
    second: Float[np.ndarray, "draw prompt"],
) -> Float[np.ndarray, "draw position"]:
    """Row-wise cosine of the directions that two arrays of coefficients make; NaN where one is zero."""
    columns = []
    for position in range(harmful.shape[1]):
        rows = np.concatenate([x[:, position].astype(np.float64) for x in (harmful, harmless)])
        rounding = (1e-14 * np.max(np.linalg.norm(rows, axis=1))) ** 2
        rows -= rows.mean(axis=0)
        gram = rows @ rows.T
        dot = np.sum((first @ gram) * second, axis=1)
        squares = [np.sum((a @ gram) * a, axis=1) for a in (first, second)]
        norms = np.sqrt(np.maximum(squares[0], 0) * np.maximum(squares[1], 0))
        columns.append(np.divide(dot, norms, out=np.full(len(dot), np.nan), where=norms > rounding))
    return np.stack(columns, axis=1)
