"""Means and covariances in float64, a few chunks in memory at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from refusal_lightning.store.reading import Source, each_group


def mean(source: Source, rows: np.ndarray, groups: Sequence[int]) -> np.ndarray:
    """[group, value] float64: the mean over rows."""
    total = np.zeros((len(groups), source.spec.values))

    def add(place: int, values: np.ndarray) -> None:
        total[place] += values.sum(axis=0, dtype=np.float64)

    each_group(source, rows, groups, add)
    return total / len(rows)


def covariance(source: Source, rows: np.ndarray, groups: Sequence[int], parts: int, ddof: int) -> np.ndarray:
    """[group, part, value, value] float64: covariance over rows of each of ``parts`` equal parts of the values.

    Two passes, the second around the mean of the first: no cancellation, whatever the size of the mean.
    """
    centre = mean(source, rows, groups)
    width = source.spec.values // parts
    total = np.zeros((len(groups), parts, width, width))

    def add(place: int, values: np.ndarray) -> None:
        centred = values.astype(np.float64) - centre[place]
        for part in range(parts):
            columns = centred[:, part * width : (part + 1) * width]
            total[place, part] += columns.T @ columns

    each_group(source, rows, groups, add)
    return total / (len(rows) - ddof)
