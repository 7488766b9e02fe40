"""Stored activations of one layer, a block of prompts at a time: those of all prompts may not fit into memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int

from refusal_lightning.directions.estimators.passes import FEW
from refusal_lightning.directions.estimators.spec import EstimatorSpec
from refusal_lightning.store import ActivationStore

NAME = "resid_pre"
BLOCK_BYTES = 64 << 20
"""Float64 activations of one layer in memory at a time; what is made of them takes about as much again."""


class StoredActivations:
    """Activations of prompts at one layer and one position: (places among the prompts, ``[prompt, d_model]`` float64),
    block by block, as often as it is iterated over."""

    def __init__(
        self, store: ActivationStore, rows: Int[np.ndarray, " prompt"], layer: int, position: int, n_positions: int
    ) -> None:
        self._store, self._rows, self._n_positions = store, rows, n_positions
        self._layer, self._position = layer, position

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for places in blocks(self._rows, self._n_positions * self._store.layout.d_model):
            rows = self._rows[places]
            read = self._store.read(NAME, rows, layers=[self._layer], positions=[self._position], dtype=np.float64)
            yield places, read[:, 0, 0]

    def together(self) -> Float[np.ndarray, "prompt 1 d_model"]:
        """Those of all prompts."""
        out = np.empty((len(self), 1, self._store.layout.d_model))
        for places, block in self:
            out[places, 0] = block
        return out


def blocks(rows: Int[np.ndarray, " prompt"], values: int) -> list[Int[np.ndarray, " block"]]:
    """Places among the rows, in the store's order, so that float64 blocks of so many values per row are of
    BLOCK_BYTES; all in the order given where they fit."""
    at_once = max(1, BLOCK_BYTES // (8 * values))
    if len(rows) <= at_once:
        return [np.arange(len(rows))]
    order = np.argsort(rows, kind="stable")
    return [order[start : start + at_once] for start in range(0, len(order), at_once)]


def directions_by_layer(
    estimator: EstimatorSpec, store: ActivationStore, harmful: np.ndarray, harmless: np.ndarray, n_positions: int
) -> Float[np.ndarray, "position layer d_model"]:
    """What an estimator of rows makes of the prompts of these rows, float64: a layer at a time, of more prompts a
    position at a time, of many in passes over them, where it can."""
    estimate, in_passes = estimator.of_rows, estimator.in_passes
    assert estimate is not None
    d_model, n = store.layout.d_model, len(harmful) + len(harmless)
    positions = range(-n_positions, 0)

    def classes(layer: int, position: int) -> tuple[StoredActivations, StoredActivations]:
        first, second = (StoredActivations(store, x, layer, position, n_positions) for x in (harmful, harmless))
        return first, second

    def of_layer(layer: int) -> Float[np.ndarray, "position d_model"]:
        if n > max(FEW, d_model) and in_passes is not None:
            return np.stack([in_passes(*classes(layer, position)) for position in positions])
        if n * n_positions * d_model * 8 > 2 * BLOCK_BYTES:
            pairs = ([x.together() for x in classes(layer, position)] for position in positions)
            return np.concatenate([estimate(first, second) for first, second in pairs])
        first, second = (
            store.read(NAME, x, layers=[layer], positions=positions, dtype=np.float64)[:, 0]
            for x in (harmful, harmless)
        )
        return estimate(first, second)

    return np.stack([of_layer(layer) for layer in store.layout.layers], axis=1)
