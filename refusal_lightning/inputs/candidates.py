"""Candidate directions: an estimator's, from stored activations of the kept prompts."""

from __future__ import annotations

import numpy as np

from refusal_lightning.config import (
    DataConfig,
)
from refusal_lightning.inputs.drawing import categories_of
from refusal_lightning.inputs.prompts import Filtered, PromptSet
from refusal_lightning.inputs.stored_activations import directions_by_layer
from refusal_lightning.store import ActivationStore


def mean_differences(store: ActivationStore, harmful: PromptSet, harmless: PromptSet, n_positions: int) -> np.ndarray:
    """Harmful minus harmless means (paper, eq. 1 and 2), float64 ``[position, layer, d_model]``."""
    positions = range(-n_positions, 0)
    means = [store.mean("resid_pre", prompts.hashes, positions=positions) for prompts in (harmful, harmless)]
    return np.ascontiguousarray((means[0] - means[1]).transpose(1, 0, 2))


def estimated_directions(
    estimator: str, store: ActivationStore, kept: dict[str, Filtered], n_positions: int, data: DataConfig
) -> np.ndarray:
    """The candidates' directions by an estimator, float64 ``[position, layer, d_model]``, one layer at a time."""
    harmful, harmless = kept["harmful_train"].prompts, kept["harmless_train"].prompts
    if estimator == "mean_difference":  # from sums over shards: the prompts' activations are never all in memory
        return mean_differences(store, harmful, harmless, n_positions)
    if estimator == "category_means":
        categories = categories_of(data, harmful.instructions)
        return category_mean_differences(store, harmful, harmless, categories, n_positions)
    first, second = (store.rows(prompts.hashes) for prompts in (harmful, harmless))
    return np.ascontiguousarray(directions_by_layer(estimator, store, first, second, n_positions))


def category_mean_differences(
    store: ActivationStore, harmful: PromptSet, harmless: PromptSet, categories: list[str], n_positions: int
) -> np.ndarray:
    """Mean over categories of the harmful prompts' means, less the harmless mean: each category counts the same,
    however many prompts it has. float64 ``[position, layer, d_model]``."""
    positions = range(-n_positions, 0)
    of_category: dict[str, list[str]] = {}
    for category, prompt in zip(categories, harmful.hashes, strict=True):
        of_category.setdefault(category, []).append(prompt)
    means = [store.mean("resid_pre", hashes, positions=positions) for _, hashes in sorted(of_category.items())]
    difference = np.mean(means, axis=0) - store.mean("resid_pre", harmless.hashes, positions=positions)
    return np.ascontiguousarray(difference.transpose(1, 0, 2))
