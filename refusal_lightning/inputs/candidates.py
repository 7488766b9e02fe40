"""Candidate directions: an estimator's, from stored activations of the kept prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from refusal_lightning.config import DataConfig
from refusal_lightning.directions.estimators.registry import ESTIMATORS
from refusal_lightning.inputs.drawing import categories_of
from refusal_lightning.inputs.prompts import Filtered
from refusal_lightning.inputs.stored_activations import directions_by_layer
from refusal_lightning.store import ActivationStore


@dataclass(frozen=True)
class StoredMeans:
    """Means of stored ``resid_pre`` activations of the kept training prompts (paper, eq. 1), float64, from sums over
    shards: the prompts' activations are never all in memory."""

    store: ActivationStore
    kept: Mapping[str, Filtered]
    n_positions: int
    data: DataConfig

    def harmful(self) -> Float[np.ndarray, "layer position d_model"]:
        """Mean over all harmful prompts."""
        return self._mean(self.kept["harmful_train"].prompts.hashes)

    def harmless(self) -> Float[np.ndarray, "layer position d_model"]:
        """Mean over all harmless prompts."""
        return self._mean(self.kept["harmless_train"].prompts.hashes)

    def harmful_by_category(self) -> list[Float[np.ndarray, "layer position d_model"]]:
        """Mean over the harmful prompts of each category, by its name."""
        prompts = self.kept["harmful_train"].prompts
        of_category: dict[str, list[str]] = {}
        for category, prompt in zip(categories_of(self.data, prompts.instructions), prompts.hashes, strict=True):
            of_category.setdefault(category, []).append(prompt)
        return [self._mean(hashes) for _, hashes in sorted(of_category.items())]

    def _mean(self, hashes: Sequence[str]) -> Float[np.ndarray, "layer position d_model"]:
        return self.store.mean("resid_pre", hashes, positions=range(-self.n_positions, 0))


def estimated_directions(
    estimator: str, store: ActivationStore, kept: Mapping[str, Filtered], n_positions: int, data: DataConfig
) -> Float[np.ndarray, "position layer d_model"]:
    """The candidates' directions by a registered estimator, float64, in bounded memory. Raises UserError."""
    spec = ESTIMATORS[estimator]
    if spec.of_means is not None:
        by_layer = spec.of_means(StoredMeans(store, kept, n_positions, data))
        return np.ascontiguousarray(by_layer.transpose(1, 0, 2))
    first, second = (store.rows(kept[f"{kind}_train"].prompts.hashes) for kind in ("harmful", "harmless"))
    return np.ascontiguousarray(directions_by_layer(spec, store, first, second, n_positions))
