"""One shard of one array as zarr's sharding codec lays it out: chunks, each with its checksum, then an index.

Chunks stand group by group (a group is a layer), so that one layer of a shard is one stretch of the file. A chunk
whose rows belong to no prompt is left out, which zarr reads as the fill value. ``tests/store`` holds this against
zarr's own codec, both ways.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import google_crc32c
import numpy as np

from refusal_lightning.store import bfloat16
from refusal_lightning.store.compression import compress, decompress
from refusal_lightning.store.errors import StoreError
from refusal_lightning.store.geometry import ArraySpec
from refusal_lightning.store.layout import Compression
from refusal_lightning.store.objects import ObjectReader, Objects

ABSENT = 2**64 - 1
CRC_BYTES = 4


def encode(spec: ArraySpec, compression: Compression, data: np.ndarray) -> Iterator[np.ndarray | bytes]:
    """The buffers of a shard in file order; ``data`` is [row, group, value] with at most ``spec.shard_rows`` rows.

    A buffer holds until the next one is asked for. Raises ValueError if the values do not fit the stored type.
    """
    rows = len(data)
    index = np.full((spec.blocks, spec.groups, 2), ABSENT, dtype="<u8")
    chunk = np.empty((spec.chunk_rows, spec.values), dtype=spec.stored)
    offset = 0
    for group in range(spec.groups):
        for block in range(-(-rows // spec.chunk_rows)):
            part = data[block * spec.chunk_rows : (block + 1) * spec.chunk_rows, group]
            _fill(chunk, part, spec)
            payload = compress(compression, chunk)
            yield payload
            yield _crc(payload)
            index[block, group] = offset, len(payload) + CRC_BYTES
            offset += len(payload) + CRC_BYTES
    yield index.tobytes()
    yield _crc(index.tobytes())


def _fill(chunk: np.ndarray, part: np.ndarray, spec: ArraySpec) -> None:
    target = chunk[: len(part)]
    if spec.bfloat16_bits:
        bfloat16.encode(part, target)
        chunk[len(part) :] = bfloat16.NAN
        return
    target[...] = part
    if target.dtype != part.dtype and not np.array_equal(target.astype(part.dtype), part, equal_nan=True):
        raise ValueError(f"values of {spec.name} are not {spec.stored.name} values, so they cannot be kept exactly")
    chunk[len(part) :] = np.nan


def _crc(data: Any) -> bytes:
    return struct.pack("<I", google_crc32c.value(data))


class ShardReader:
    """An open shard: its index checked, its chunks checked as they are read. Errors name array, shard and layer."""

    def __init__(self, spec: ArraySpec, compression: Compression, where: str, reader: ObjectReader) -> None:
        self._spec, self._compression, self._where, self._reader = spec, compression, where, reader
        if reader.size < spec.index_bytes:
            raise self._damaged(f"truncated to {reader.size} bytes")
        data = np.frombuffer(reader.read(reader.size - spec.index_bytes, reader.size), np.uint8)
        if len(data) != spec.index_bytes or _crc(data[:-CRC_BYTES]) != bytes(data[-CRC_BYTES:]):
            raise self._damaged("its index does not match its checksum (damaged or truncated)")
        self.index = data[:-CRC_BYTES].view("<u8").reshape(spec.blocks, spec.groups, 2).copy()
        self._scratch = np.empty((spec.chunk_rows, spec.values), dtype=spec.stored)

    def prefetch(self, blocks: Iterable[int], groups: Iterable[int]) -> None:
        """Say which chunks will be read: over a network they are fetched together."""
        listed = list(blocks)
        parts = [(int(self.index[b, g, 0]), int(self.index[b, g].sum())) for g in groups for b in listed]
        end = self._reader.size - self._spec.index_bytes
        self._reader.prefetch([(start, stop) for start, stop in parts if start <= stop <= end])

    def chunk(self, block: int, group: int) -> np.ndarray:
        """One chunk [chunk row, value] of the stored type, good until the next. Raises StoreError on any damage."""
        place = f"chunk {block} of layer number {group}" if self._spec.groups > 1 else f"chunk {block}"
        start, length = (int(v) for v in self.index[block, group])
        if start == ABSENT:
            raise self._damaged(f"{place} is missing")
        if start + length > self._reader.size - self._spec.index_bytes or length < CRC_BYTES:
            raise self._damaged(f"{place} lies outside the file")
        data = np.frombuffer(self._reader.read(start, start + length), np.uint8)
        if len(data) != length or _crc(data[:-CRC_BYTES]) != bytes(data[-CRC_BYTES:]):
            raise self._damaged(f"{place} does not match its checksum")
        try:
            return decompress(self._compression, data[:-CRC_BYTES], self._scratch)
        except (ValueError, RuntimeError) as error:
            raise self._damaged(f"{place} cannot be decompressed ({error})") from error

    def _damaged(self, what: str) -> StoreError:
        return StoreError(
            f"{self._where} is damaged: {what}. `store verify` lists all damage; `store repair` drops damaged shards, "
            "and `cache` computes them again"
        )


def describe(objects: Objects, spec: ArraySpec, shard: int) -> str:
    """How messages name one shard of one array."""
    return f"store {objects.url}: shard {shard} of array {spec.name} (file {shard_key(spec, shard)})"


def shard_key(spec: ArraySpec, shard: int) -> str:
    """The object that holds a shard: one flat folder per array, so that a shard is one inode."""
    return f"{spec.name}/c.{'.'.join([str(shard), *'0' * len(spec.shape)])}"


def shard_number(name: str) -> int | None:
    """The shard of an object's name within its array's folder; None for other objects."""
    parts = name.split(".")
    if parts[0] != "c" or len(parts) < 2 or not all(p.isdigit() for p in parts[1:]) or any(int(p) for p in parts[2:]):
        return None
    return int(parts[1])


def as_groups(spec: ArraySpec, data: np.ndarray) -> np.ndarray:
    """An array's rows as [row, group, value], without a copy where it is contiguous."""
    return np.ascontiguousarray(data).reshape(len(data), spec.groups, spec.values)


def check_shape(spec: ArraySpec, data: np.ndarray, rows: int) -> None:
    """Raises ValueError unless ``data`` is that many rows of this array, floating point."""
    if data.shape != (rows, *spec.shape):
        raise ValueError(f"{spec.name}: shape {data.shape} where {(rows, *spec.shape)} belongs")
    if data.dtype.kind != "f":
        raise ValueError(f"{spec.name}: dtype {data.dtype} where floating point belongs")


def wanted_blocks(spec: ArraySpec, rows: Sequence[int] | np.ndarray) -> list[int]:
    """The chunks along the rows that hold any of the local rows."""
    return sorted({int(row) // spec.chunk_rows for row in rows})
