"""What every analysis takes and gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float

from refusal_lightning.directions.analysis.separability import projected
from refusal_lightning.inputs.stored_activations import StoredActivations, blocks
from refusal_lightning.store import ActivationStore

LAYER = "layer (resid_pre)"


@dataclass(frozen=True, eq=False)
class AnalysisInputs:
    """What the analyses work on."""

    store: ActivationStore
    rows: dict[str, np.ndarray]
    """Rows of the store by set of kept prompts, e.g. ``harmful_val``."""
    datasets: Mapping[tuple[str, str, str], Sequence[str]]
    """Prompts' hashes by (dataset, split, label), of all that the configuration at hand caches; for ``projection``."""
    directions: Float[np.ndarray, "position layer d_model"]
    """The candidates of ``select``, float64."""
    selected: tuple[int, int] | None
    """Position and layer of the selected candidate, if there is one."""
    tokens: Sequence[str]
    """Text of the token at each end-of-instruction position."""
    n_resamples: int
    confidence: float
    seed: int

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


@dataclass(frozen=True, eq=False)
class Analysis:
    """A result: rows of a table, one line that says the most, and a plot (PNG)."""

    headline: str
    rows: list[dict[str, Any]]
    plot: bytes
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    """What is too large for a table."""
