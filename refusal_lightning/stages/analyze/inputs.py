"""What every analysis works on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float

from refusal_lightning.data.labels import REFUSAL, Labels
from refusal_lightning.directions.analysis.separability import projected
from refusal_lightning.inputs.stored_activations import StoredActivations, blocks
from refusal_lightning.store import ActivationStore

Datasets = Mapping[tuple[str, str, str], Sequence[str]]
"""Prompts' hashes by (dataset, split, label)."""


@dataclass(frozen=True, eq=False)
class AnalysisInputs:
    """The candidates of one estimator, and the stored activations of the prompts that the filter of `select` keeps."""

    store: ActivationStore
    rows: dict[str, np.ndarray]
    """Rows of the store by set of kept prompts, e.g. ``harmful_val``."""
    datasets: Datasets
    """All that the configuration at hand caches; empty where no analysis needs it."""
    estimator: str
    directions: Float[np.ndarray, "position layer d_model"]
    """The candidates of ``select``, float64."""
    selected: tuple[int, int] | None
    """Position and layer of the selected candidate, if there is one."""
    position_tokens: Sequence[str]
    """Text of the token at each end-of-instruction position."""
    n_resamples: int
    confidence: float
    seed: int
    made_from: Mapping[str, Any] = field(default_factory=dict)
    """What every result depends on, as its file says."""
    labels: Labels = REFUSAL

    def rng(self) -> np.random.Generator:
        """A fresh generator: every layer sees the same draws, so differences between layers are not the draw's."""
        return np.random.default_rng(self.seed)

    @property
    def positions(self) -> range:
        return range(-len(self.directions), 0)

    @property
    def layers(self) -> range:
        return range(self.directions.shape[1])

    def activations(self, name: str, layer: int, position: int) -> StoredActivations:
        """A set's activations at one layer and position."""
        return StoredActivations(self.store, self.rows[name], layer, position, len(self.positions))

    def projections(self, name: str, layer: int) -> Float[np.ndarray, "prompt position"]:
        """A set's activations at one layer on the directions of that layer (see ``projected``)."""
        rows, directions = self.rows[name], self.directions[:, layer]
        out = np.empty((len(rows), len(directions)))
        for places in blocks(rows, directions.size):
            found = self.store.read("resid_pre", rows[places], layers=[layer], positions=self.positions)[:, 0]
            out[places] = projected(found, directions)
        return out
