"""Means and covariances in float64, one chunk in memory at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from refusal_lightning.store.geometry import ArraySpec
from refusal_lightning.store.layout import Compression
from refusal_lightning.store.objects import Objects
from refusal_lightning.store.reading import chunks_of, numbers, pieces_of


def mean(
    objects: Objects, spec: ArraySpec, compression: Compression, rows: np.ndarray, groups: Sequence[int]
) -> np.ndarray:
    """[group, value] float64: the mean over rows."""
    total = np.zeros((len(groups), spec.values))
    for shard, pieces in pieces_of(spec, rows):
        for place, piece, chunk in chunks_of(objects, spec, compression, shard, pieces, groups):
            total[place] += numbers(spec, chunk[piece.source]).sum(axis=0, dtype=np.float64)
    return total / len(rows)


def covariance(
    objects: Objects,
    spec: ArraySpec,
    compression: Compression,
    rows: np.ndarray,
    groups: Sequence[int],
    parts: int,
    ddof: int,
) -> np.ndarray:
    """[group, part, value, value] float64: covariance over rows of each of ``parts`` equal parts of the values.

    Two passes, the second around the mean of the first: no cancellation, whatever the size of the mean.
    """
    centre = mean(objects, spec, compression, rows, groups)
    width = spec.values // parts
    total = np.zeros((len(groups), parts, width, width))
    for shard, pieces in pieces_of(spec, rows):
        for place, piece, chunk in chunks_of(objects, spec, compression, shard, pieces, groups):
            centred = numbers(spec, chunk[piece.source]).astype(np.float64) - centre[place]
            for part in range(parts):
                values = centred[:, part * width : (part + 1) * width]
                total[place, part] += values.T @ values
    return total / (len(rows) - ddof)
