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
class Source:
    """One array of a store, to be read."""

    objects: Backend
    spec: ArraySpec
    compression: Compression
    binding: Callable[[int], Binding] | None = None
    """What each shard must be made for; None where they do not say (format 1)."""


@dataclass(frozen=True)
class Piece:
    """Rows of one chunk: of the chunk (``source``) and of what was asked for (``target``), index or slice."""

    block: int
    source: np.ndarray | slice
    target: np.ndarray | slice


def read_rows(source: Source, rows: np.ndarray, groups: Sequence[int], dtype: np.dtype[Any]) -> np.ndarray:
    """[row, group, value] of global rows, in their order. Raises StoreError on damage or if a shard is missing."""
    out = np.empty((len(rows), len(groups), source.spec.values), dtype=dtype)

    def copy(task: tuple[int, list[Piece], range], scratch: Scratch) -> None:
        shard, pieces, places = task
        with open_shard(source, shard) as reader:
            reader.prefetch([piece.block for piece in pieces], [groups[place] for place in places])
            for place in places:
                for piece in pieces:
                    chunk = reader.chunk(piece.block, groups[place], scratch)
                    _take(source.spec, chunk, piece, out, place)

    shards = list(pieces_of(source.spec, rows))
    threads = thread_count(out.nbytes)
    parts = slices(len(groups), 1 if threads == 1 else -(-4 * threads // max(1, len(shards))))
    tasks = [(shard, pieces, places) for shard, pieces in shards for places in parts]
    map_unordered(copy, tasks, lambda: Scratch(source.spec), threads)
    return out


def each_group(
    source: Source,
    rows: np.ndarray,
    groups: Sequence[int],
    work: Callable[[int, np.ndarray], None],
) -> None:
    """``work(place in groups, [row, value] numbers)`` for all rows: at one place chunk by chunk in ascending order.

    Different places may be worked on at the same time.
    """
    shards = list(pieces_of(source.spec, rows))

    def through(places: range, scratch: Scratch) -> None:
        for shard, pieces in shards:
            with open_shard(source, shard) as reader:
                reader.prefetch([piece.block for piece in pieces], [groups[place] for place in places])
                for place in places:
                    for piece in pieces:
                        chunk = reader.chunk(piece.block, groups[place], scratch)
                        work(place, _numbers(source.spec, chunk[piece.source]))

    threads = thread_count(len(rows) * len(groups) * source.spec.values * source.spec.stored.itemsize)
    map_unordered(through, slices(len(groups), threads), lambda: Scratch(source.spec), threads)


@contextmanager
def open_shard(source: Source, shard: int) -> Iterator[ShardReader]:
    """A shard, opened. Raises StoreError if it is missing or its index is damaged."""
    where = describe(source.objects, source.spec, shard)
    try:
        file = source.objects.open(shard_key(source.spec, shard))
    except FileNotFoundError as error:
        raise StoreError(f"{where} is missing; `cache` computes it again") from error
    with file as opened_file:
        binding = None if source.binding is None else source.binding(shard)
        yield ShardReader(source.spec, source.compression, where, opened_file, binding)


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
        if number // spec.blocks != shard:
            if pieces:
                yield shard, pieces
            shard, pieces = number // spec.blocks, []
        source = ordered[start:stop] - number * spec.chunk_rows
        pieces.append(Piece(number % spec.blocks, _slice(source), _slice(order[start:stop])))
    if pieces:
        yield shard, pieces


def _take(spec: ArraySpec, chunk: np.ndarray, piece: Piece, out: np.ndarray, place: int) -> None:
    """Copy rows of a chunk into ``out[target, place]``, as numbers."""
    if not spec.bfloat16_bits:
        out[piece.target, place] = chunk[piece.source]
    elif isinstance(piece.target, slice) and out.dtype == np.float32:
        bfloat16.decode(chunk[piece.source], out[piece.target, place])
    else:
        out[piece.target, place] = _numbers(spec, chunk[piece.source])


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
