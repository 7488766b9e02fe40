"""Reading rows of one array: whole chunks are read and checked, and what is wanted of them is taken."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from refusal_lightning.store import bfloat16
from refusal_lightning.store.errors import StoreError
from refusal_lightning.store.geometry import ArraySpec
from refusal_lightning.store.layout import Compression
from refusal_lightning.store.objects import Objects
from refusal_lightning.store.shard_file import ShardReader, describe, shard_key


@dataclass(frozen=True)
class Piece:
    """Rows of one chunk: of the chunk (``source``) and of what was asked for (``target``), index or slice."""

    block: int
    source: np.ndarray | slice
    target: np.ndarray | slice


def read_rows(
    objects: Objects,
    spec: ArraySpec,
    compression: Compression,
    rows: np.ndarray,
    groups: Sequence[int],
    dtype: np.dtype,
) -> np.ndarray:
    """[row, group, value] of global rows, in their order. Raises StoreError on damage or if a shard is missing."""
    out = np.empty((len(rows), len(groups), spec.values), dtype=dtype)
    for shard, pieces in pieces_of(spec, rows):
        for place, piece, chunk in chunks_of(objects, spec, compression, shard, pieces, groups):
            take(spec, chunk, piece.source, out, piece.target, place)
    return out


def pieces_of(spec: ArraySpec, rows: np.ndarray) -> Iterator[tuple[int, list[Piece]]]:
    """The chunks that hold the rows, shard by shard in ascending order."""
    order = np.argsort(rows, kind="stable")
    ordered = rows[order]
    chunk_of = ordered // spec.chunk_rows
    starts = np.flatnonzero(np.r_[True, chunk_of[1:] != chunk_of[:-1]]) if len(rows) else np.zeros(0, int)
    shard = -1
    pieces: list[Piece] = []
    for start, stop in zip(starts, [*starts[1:], len(rows)], strict=True):
        number = int(chunk_of[start])
        if number // spec.blocks != shard:
            if pieces:
                yield shard, pieces
            shard, pieces = number // spec.blocks, []
        source = ordered[start:stop] - number * spec.chunk_rows
        pieces.append(Piece(number % spec.blocks, _slice(source), _slice(order[start:stop])))
    if pieces:
        yield shard, pieces


def chunks_of(
    objects: Objects,
    spec: ArraySpec,
    compression: Compression,
    shard: int,
    pieces: Sequence[Piece],
    groups: Sequence[int],
) -> Iterator[tuple[int, Piece, np.ndarray]]:
    """(place in ``groups``, piece, chunk [chunk row, value] as stored) by layer; a chunk holds until the next."""
    where = describe(objects, spec, shard)
    try:
        with objects.open(shard_key(spec, shard)) as file:
            reader = ShardReader(spec, compression, where, file)
            reader.prefetch([piece.block for piece in pieces], groups)
            for place, group in enumerate(groups):
                for piece in pieces:
                    yield place, piece, reader.chunk(piece.block, group)
    except FileNotFoundError as error:
        raise StoreError(f"{where} is missing; `cache` computes it again") from error


def take(
    spec: ArraySpec,
    chunk: np.ndarray,
    source: np.ndarray | slice,
    out: np.ndarray,
    target: np.ndarray | slice,
    place: int,
) -> None:
    """Copy rows of a chunk into ``out[target, place]``, as numbers."""
    if not spec.bfloat16_bits:
        out[target, place] = chunk[source]
    elif isinstance(target, slice) and out.dtype == np.float32:
        bfloat16.decode(chunk[source], out[target, place])
    else:
        out[target, place] = numbers(spec, chunk[source])


def numbers(spec: ArraySpec, values: np.ndarray) -> np.ndarray:
    """Stored values as floating point numbers."""
    if not spec.bfloat16_bits:
        return values
    out = np.empty(values.shape, dtype="<f4")
    bfloat16.decode(values, out)
    return out


def _slice(indices: np.ndarray) -> np.ndarray | slice:
    """A slice instead of consecutive indices: it copies faster."""
    first, count = int(indices[0]), len(indices)
    if int(indices[-1]) - first == count - 1 and (np.diff(indices) == 1).all():
        return slice(first, first + count)
    return indices
