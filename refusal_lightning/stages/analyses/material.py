"""What every analysis takes and gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float

from refusal_lightning.store import ActivationStore

LAYER = "layer (resid_pre)"


@dataclass(frozen=True, eq=False)
class Material:
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

    def read(self, name: str, layer: int) -> Float[np.ndarray, "prompt position d_model"]:
        """A set's activations at one layer."""
        return self.store.read("resid_pre", self.rows[name], layers=[layer], positions=self.positions)[:, 0]


@dataclass(frozen=True, eq=False)
class Analysis:
    """A result: rows of a table, one line that says the most, and a plot (PNG)."""

    headline: str
    rows: list[dict[str, Any]]
    plot: bytes
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    """What is too large for a table."""
