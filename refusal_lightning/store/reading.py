"""Reading rows of one array: whole chunks are read and checked, and what is wanted of them is taken."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from refusal_lightning.store.backend.protocol import Backend
from refusal_lightning.store.backend.threads import map_unordered, slices, thread_count
from refusal_lightning.store.errors import StoreError
from refusal_lightning.store.format import bfloat16
from refusal_lightning.store.format.chunking import ArraySpec
from refusal_lightning.store.format.layout import Compression
from refusal_lightning.store.format.shard_file import Binding, Scratch, ShardReader, describe, shard_key


@dataclass(frozen=True)
class StoredArray:
    """One array of a store, to be read."""

    backend: Backend
    spec: ArraySpec
    compression: Compression
    binding: Callable[[int], Binding] | None = None
    """What each shard must be made for; None where they do not say (format 1)."""


@dataclass(frozen=True)
class Piece:
    """Rows of one chunk: of the chunk (``source``) and of what was asked for (``target``), index or slice."""

    row_chunk: int
    source: np.ndarray | slice
    target: np.ndarray | slice


def read_rows(array: StoredArray, rows: np.ndarray, layers: Sequence[int], dtype: np.dtype[Any]) -> np.ndarray:
    """[row, layer, value] of global rows and layer indices, in their order.

    Raises StoreError on damage or if a shard is missing.
    """
    out = np.empty((len(rows), len(layers), array.spec.values), dtype=dtype)

    def copy(task: tuple[int, list[Piece], range], scratch: Scratch) -> None:
        shard, pieces, columns = task
        with open_shard(array, shard) as reader:
            reader.prefetch([piece.row_chunk for piece in pieces], [layers[column] for column in columns])
            for column in columns:
                for piece in pieces:
                    chunk = reader.chunk(piece.row_chunk, layers[column], scratch)
                    _take(array.spec, chunk, piece, out, column)

    shards = list(pieces_of(array.spec, rows))
    threads = thread_count(out.nbytes)
    parts = slices(len(layers), 1 if threads == 1 else -(-4 * threads // max(1, len(shards))))
    tasks = [(shard, pieces, columns) for shard, pieces in shards for columns in parts]
    map_unordered(copy, tasks, lambda: Scratch(array.spec), threads)
    return out


def each_chunk(
    array: StoredArray, rows: np.ndarray, layers: Sequence[int], work: Callable[[int, np.ndarray], None]
) -> None:
    """``work(column, [row, value] numbers)`` for all rows, ``column`` being a place in ``layers``.

    In one column chunk by chunk in ascending order; different columns may be worked on at the same time.
    """
    shards = list(pieces_of(array.spec, rows))

    def through(columns: range, scratch: Scratch) -> None:
        for shard, pieces in shards:
            with open_shard(array, shard) as reader:
                reader.prefetch([piece.row_chunk for piece in pieces], [layers[column] for column in columns])
                for column in columns:
                    for piece in pieces:
                        chunk = reader.chunk(piece.row_chunk, layers[column], scratch)
                        work(column, _numbers(array.spec, chunk[piece.source]))

    threads = thread_count(len(rows) * len(layers) * array.spec.values * array.spec.stored.itemsize)
    map_unordered(through, slices(len(layers), threads), lambda: Scratch(array.spec), threads)


@contextmanager
def open_shard(array: StoredArray, shard: int) -> Iterator[ShardReader]:
    """A shard, opened. Raises StoreError if it is missing or its index is damaged."""
    where = describe(array.backend, array.spec, shard)
    try:
        file = array.backend.open(shard_key(array.spec, shard))
    except FileNotFoundError as error:
        raise StoreError(f"{where} is missing; `cache` computes it again") from error
    with file as opened_file:
        binding = None if array.binding is None else array.binding(shard)
        yield ShardReader(array.spec, array.compression, where, opened_file, binding)


def pieces_of(spec: ArraySpec, rows: np.ndarray) -> Iterator[tuple[int, list[Piece]]]:
    """The chunks that hold the rows, shard by shard in ascending order."""
    order = np.argsort(rows, kind="stable")
    ordered = rows[order]
    chunk_of = ordered // spec.chunk_rows
    starts = np.flatnonzero(np.r_[True, chunk_of[1:] != chunk_of[:-1]]) if len(rows) else np.zeros(0, int)
    shard = -1
    pieces: list[Piece] = []
    for start, stop in zip(starts, np.r_[starts[1:], len(rows)][: len(starts)], strict=True):
        number = int(chunk_of[start])
        if number // spec.row_chunks != shard:
            if pieces:
                yield shard, pieces
            shard, pieces = number // spec.row_chunks, []
        source = ordered[start:stop] - number * spec.chunk_rows
        pieces.append(Piece(number % spec.row_chunks, _slice(source), _slice(order[start:stop])))
    if pieces:
        yield shard, pieces


def _take(spec: ArraySpec, chunk: np.ndarray, piece: Piece, out: np.ndarray, column: int) -> None:
    """Copy rows of a chunk into ``out[target, column]``, as numbers."""
    if not spec.bfloat16_bits:
        out[piece.target, column] = chunk[piece.source]
    elif isinstance(piece.target, slice) and out.dtype == np.float32:
        bfloat16.decode(chunk[piece.source], out[piece.target, column])
    else:
        out[piece.target, column] = _numbers(spec, chunk[piece.source])


def _numbers(spec: ArraySpec, values: np.ndarray) -> np.ndarray:
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
