"""Means and covariances in float64, a few chunks in memory at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from refusal_lightning.store.reading import StoredArray, each_chunk


def mean(array: StoredArray, rows: np.ndarray, layers: Sequence[int]) -> np.ndarray:
    """[layer, value] float64: the mean over rows."""
    total = np.zeros((len(layers), array.spec.values))

    def add(column: int, values: np.ndarray) -> None:
        total[column] += values.sum(axis=0, dtype=np.float64)

    each_chunk(array, rows, layers, add)
    return total / len(rows)


def covariance(array: StoredArray, rows: np.ndarray, layers: Sequence[int], parts: int, ddof: int) -> np.ndarray:
    """[layer, part, value, value] float64: covariance over rows of each of ``parts`` equal parts of the values.

    Two passes, the second around the mean of the first: no cancellation, whatever the size of the mean.
    """
    centre = mean(array, rows, layers)
    width = array.spec.values // parts
    total = np.zeros((len(layers), parts, width, width))

    def add(column: int, values: np.ndarray) -> None:
        centred = values.astype(np.float64) - centre[column]
        for part in range(parts):
            own = centred[:, part * width : (part + 1) * width]
            total[column, part] += own.T @ own

    each_chunk(array, rows, layers, add)
    return total / (len(rows) - ddof)
