"""One shard of one array as zarr's sharding codec lays it out: chunks, each with its checksum, then an index.

Between the two, where no entry of the index points and so no zarr reader looks, stands the shard's binding: a digest
of the store and the prompts it was made for. Chunks stand layer by layer, so that one layer of a shard is one stretch
of the file. A chunk whose rows belong to no prompt is left out, which zarr reads as the fill value.
``tests/store`` holds this against zarr's own codec, both ways.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import google_crc32c
import numpy as np

from refusal_lightning.store.backend.protocol import Backend, ObjectReader
from refusal_lightning.store.backend.threads import map_ordered, thread_count
from refusal_lightning.store.errors import StoreError
from refusal_lightning.store.format import bfloat16
from refusal_lightning.store.format.chunking import ArraySpec
from refusal_lightning.store.format.compression import compress, decompress
from refusal_lightning.store.format.layout import Compression

ABSENT = 2**64 - 1
CRC_BYTES = 4
_MAGIC = b"RLbind\x00\x02"
BINDING_BYTES = len(_MAGIC) + 32 + CRC_BYTES
"""Bytes of a binding: what it is, a sha256, and their crc32c."""

ChunkIndex = tuple[int, int]
"""A chunk of a shard: (its number along the rows, its layer's number)."""
Parts = list[Any]
"""Buffers whose bytes follow each other."""

_DIRECT_ROW_BYTES = 4096
"""Rows at least this long are written from where they are; shorter ones are gathered first."""


@dataclass(frozen=True)
class Binding:
    """What a shard must say that it was made for."""

    digest: bytes
    """sha256 of the store, the array and the shard's prompts, 32 bytes."""
    needed: bool = True
    """False for shards that may be of format 1, which says nothing."""


def encode(
    spec: ArraySpec, compression: Compression, data: np.ndarray, binding: Binding | None = None
) -> Iterator[Parts]:
    """The buffers of a shard in file order; ``data`` is [row, layer, value] with at most ``spec.shard_rows`` rows.

    Without a binding the bytes are zarr's own. Raises ValueError if the values do not fit the stored type.
    """
    filled = -(-len(data) // spec.chunk_rows)
    chunks = [(row_chunk, layer) for layer in range(spec.n_layers) for row_chunk in range(filled)]

    def encoded(chunk: ChunkIndex) -> tuple[ChunkIndex, Parts]:
        row_chunk, layer = chunk
        part = data[row_chunk * spec.chunk_rows : (row_chunk + 1) * spec.chunk_rows, layer]
        if compression == "none" and _is_as_stored(spec, part):
            crc = 0
            for row in part:
                crc = google_crc32c.extend(crc, row)
            return chunk, [*part, struct.pack("<I", crc)]
        payload = compress(compression, stored_chunk(spec, part))
        return chunk, [payload, checksum(payload)]

    # Without compression only checksums are left to do: handing chunks between threads would cost more than they do.
    threads = 1 if compression == "none" else thread_count(data.nbytes)
    index = np.full((spec.row_chunks, spec.n_layers, 2), ABSENT, dtype="<u8")
    offset = 0
    for chunk, parts in map_ordered(encoded, chunks, threads):
        yield parts
        length = sum(memoryview(part).nbytes for part in parts)
        index[chunk] = offset, length
        offset += length
    bound = [] if binding is None else [_MAGIC, binding.digest, checksum(_MAGIC + binding.digest)]
    yield [*bound, index.tobytes(), checksum(index.tobytes())]


def _is_as_stored(spec: ArraySpec, part: np.ndarray) -> bool:
    """Whether a chunk's rows can be written from where they are."""
    return (
        part.dtype == spec.stored
        and len(part) == spec.chunk_rows
        and part[0].nbytes >= _DIRECT_ROW_BYTES
        and part[0].flags.c_contiguous
    )


def stored_chunk(spec: ArraySpec, part: np.ndarray) -> np.ndarray:
    """A whole chunk of the stored type; rows beyond those given are NaN."""
    chunk = np.empty((spec.chunk_rows, spec.values), dtype=spec.stored)
    target = chunk[: len(part)]
    if spec.bfloat16_bits:
        bfloat16.encode(part, target)
        chunk[len(part) :] = bfloat16.NAN
        return chunk
    with np.errstate(over="ignore"):
        target[...] = part
    if target.dtype != part.dtype and not np.array_equal(target.astype(part.dtype), part, equal_nan=True):
        raise ValueError(f"values of {spec.name} are not {spec.stored.name} values, so they cannot be kept exactly")
    chunk[len(part) :] = np.nan
    return chunk


def checksum(data: Any) -> bytes:
    """crc32c as zarr appends it."""
    return struct.pack("<I", google_crc32c.value(data))


class Scratch:
    """Memory for one chunk at a time, used again and again by one thread: fresh memory would cost more than a copy."""

    def __init__(self, spec: ArraySpec) -> None:
        self.file = bytearray()
        self.chunk = np.empty((spec.chunk_rows, spec.values), dtype=spec.stored)


class ShardReader:
    """An open shard: binding and index checked, chunks checked as they are read. Errors name array, shard and layer."""

    def __init__(
        self,
        spec: ArraySpec,
        compression: Compression,
        where: str,
        reader: ObjectReader,
        binding: Binding | None = None,
    ) -> None:
        """``binding`` is what the shard must be made for; None: it may be anything's."""
        self._spec, self._compression, self._where, self._reader = spec, compression, where, reader
        self._end = reader.size - spec.index_bytes
        if self._end < 0:
            raise self._damaged(f"it is truncated to {reader.size} bytes")
        first = max(0, self._end - BINDING_BYTES)
        tail = bytes(reader.read(first, reader.size, bytearray()))  # both in one request
        data = self._sound(np.frombuffer(tail[self._end - first :], np.uint8), spec.index_bytes, "its index")
        self.index = data.view("<u8").reshape(spec.row_chunks, spec.n_layers, 2).copy()
        if binding is not None:
            self._require_binding(tail[: self._end - first], binding)

    def _require_binding(self, found: bytes, binding: Binding) -> None:
        match bound_to(found):
            case binding.digest:
                return
            case b"":
                raise self._damaged("what it says of its prompts does not match its checksum")
            case None if not binding.needed:
                return
        raise StoreError(
            f"{self._where} is not of the prompts that are planned for it: it was left by another addition or another "
            "store. `cache` computes the shard that belongs here; `store repair` drops this one"
        )

    def prefetch(self, row_chunks: Sequence[int], layers: Iterable[int]) -> None:
        """Say which chunks will be read: over a network they are fetched together."""
        entries = [self.index[row_chunk, layer] for layer in layers for row_chunk in row_chunks]
        parts = [(int(entry[0]), int(entry.sum())) for entry in entries]
        self._reader.prefetch([(start, stop) for start, stop in parts if start <= stop <= self._end])

    def chunk(self, row_chunk: int, layer: int, scratch: Scratch) -> np.ndarray:
        """One chunk [chunk row, value] of the stored type, perhaps in ``scratch``. Raises StoreError on any damage."""
        what = f"chunk {row_chunk}" if self._spec.n_layers == 1 else f"chunk {row_chunk} of layer number {layer}"
        start, length = (int(v) for v in self.index[row_chunk, layer])
        if start == ABSENT:
            raise self._damaged(f"{what} is missing")
        if start + length > self._end or length < CRC_BYTES:
            raise self._damaged(f"{what} lies outside the file")
        data = self._checked(start, start + length, scratch.file, what)
        try:
            return decompress(self._compression, data, scratch.chunk)
        except (ValueError, RuntimeError) as error:
            raise self._damaged(f"{what} cannot be decompressed ({error})") from error

    def _checked(self, start: int, stop: int, scratch: bytearray, what: str) -> np.ndarray:
        return self._sound(np.frombuffer(self._reader.read(start, stop, scratch), np.uint8), stop - start, what)

    def _sound(self, data: np.ndarray, length: int, what: str) -> np.ndarray:
        if len(data) != length or checksum(data[:-CRC_BYTES]) != bytes(data[-CRC_BYTES:]):
            raise self._damaged(f"{what} does not match its checksum")
        return data[:-CRC_BYTES]

    def _damaged(self, what: str) -> StoreError:
        return StoreError(
            f"{self._where} is damaged: {what}. `store verify` lists all damage; `store repair` drops damaged shards, "
            "and `cache` computes them again"
        )


def bound_to(found: bytes) -> bytes | None:
    """The digest in a shard's binding; None where there is no binding (format 1), empty where it is damaged."""
    if len(found) < BINDING_BYTES or not found.startswith(_MAGIC):
        return None
    body, crc = found[:-CRC_BYTES], found[-CRC_BYTES:]
    return body[len(_MAGIC) :] if checksum(body) == crc else b""


def fits(spec: ArraySpec, reader: ObjectReader, binding: Binding) -> bool:
    """False for a shard that is of other prompts than it should be. A damaged one may be anyone's: reading it tells."""
    end = reader.size - spec.index_bytes
    found = bound_to(bytes(reader.read(max(0, end - BINDING_BYTES), max(0, end), bytearray())))
    if found is not None:
        return found in (binding.digest, b"")
    index = bytes(reader.read(max(0, end), reader.size, bytearray()))
    is_sound = end >= 0 and checksum(index[:-CRC_BYTES]) == index[-CRC_BYTES:]
    return not binding.needed or not is_sound


def describe(backend: Backend, spec: ArraySpec, shard: int) -> str:
    """How messages name one shard of one array."""
    return f"store {backend.url}: shard {shard} of array {spec.name} (file {shard_key(spec, shard)})"


def shard_key(spec: ArraySpec, shard: int) -> str:
    """The object that holds a shard: one flat folder per array, so that a shard is one inode."""
    return f"{spec.name}/c.{'.'.join([str(shard), *'0' * len(spec.shape)])}"


def shard_number(name: str) -> int | None:
    """The shard of an object's name within its array's folder; None for other objects."""
    parts = name.split(".")
    if parts[0] != "c" or len(parts) < 2 or not all(p.isdigit() for p in parts[1:]) or any(int(p) for p in parts[2:]):
        return None
    return int(parts[1])


def by_layer(spec: ArraySpec, data: np.ndarray) -> np.ndarray:
    """An array's rows as [row, layer, value], without a copy where it is contiguous."""
    return np.ascontiguousarray(data).reshape(len(data), spec.n_layers, spec.values)


def check_shape(spec: ArraySpec, data: np.ndarray, rows: int) -> None:
    """Raises ValueError unless ``data`` is that many rows of this array, floating point."""
    if data.shape != (rows, *spec.shape):
        raise ValueError(f"{spec.name}: shape {data.shape} where {(rows, *spec.shape)} belongs")
    if data.dtype.kind != "f":
        raise ValueError(f"{spec.name}: dtype {data.dtype} where floating point belongs")
