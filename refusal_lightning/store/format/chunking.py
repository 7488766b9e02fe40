"""How arrays are cut: rows per shard and per chunk, fixed when a store is made."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from refusal_lightning.store.format.layout import LOGITS, Encoding, Layout, Shard

CHUNK_BYTES = 1 << 20
"""Aim for the uncompressed size of an inner chunk: small enough for a CPU's cache, large enough for a disk."""
OBJECTS = 1000
"""Aim for the number of shard files of a store, over all arrays."""
SMALLEST, USUAL, LARGEST = 8 * 10**6, 32 * 10**6, 512 * 10**6
"""A shard's uncompressed bytes, over all arrays, where the user gives none. Below USUAL, waiting for the disk after
each shard would slow a process that does nothing but write; smaller ones are for small stores, so that several
processes share the work. A process that caches holds up to four shards."""
SHARES = 8
"""Shards that even a small store is divided into, if they reach SMALLEST."""
INDEX_SHARE = 1 / 128
"""Most bytes of a shard's bytes that its index takes, where rows are kept free for longer prompts to come."""
TYPICAL_TOKENS = 64
"""Tokens per prompt where nothing is known, for stores of all positions."""


@dataclass(frozen=True)
class Geometry:
    """Rows per shard and per inner chunk."""

    shard_prompts: int
    """Rows of the prompt axis per shard."""
    shard_tokens: int | None
    """Rows of the token axis per shard, in stores of all positions: the most tokens that a prompt may have."""
    chunk_rows: Mapping[str, int]
    """Rows per inner chunk of each array; divides its rows per shard."""
    full_tokens: int | None = None
    """Tokens at which such a shard is full; a longer prompt has one of its own. Where there are no rows, no bytes are
    stored but an index entry per chunk. None: format 1, full where there are no more rows."""

    @property
    def fill_tokens(self) -> int | None:
        """Tokens that prompts share a shard up to."""
        return self.full_tokens or self.shard_tokens

    def to_json(self) -> dict[str, Any]:
        """As the manifest holds it."""
        return {**asdict(self), "chunk_rows": dict(self.chunk_rows)}


@dataclass(frozen=True)
class ArraySpec:
    """One array, seen as [row, layer, value]; the logits count as one layer."""

    name: str
    shape: tuple[int, ...]
    """Shape of one row."""
    dims: tuple[str, ...]
    """Names of all axes."""
    n_layers: int
    stored: np.dtype[Any]
    """Type on disk."""
    bfloat16_bits: bool
    """Whether the stored integers are the bits of bfloat16."""
    shard_rows: int
    chunk_rows: int

    @property
    def per_token(self) -> bool:
        """Whether a row is a token, as in stores of all positions, and not a prompt."""
        return self.dims[0] == "token"

    @property
    def has_layers(self) -> bool:
        """False for the logits."""
        return "layer" in self.dims

    def rows_in(self, shard: Shard) -> int:
        """Rows of this array that a shard's prompts take."""
        return sum(shard.n_tokens) if self.per_token else shard.n_rows

    @property
    def values(self) -> int:
        """Values of a row in one layer."""
        return math.prod(self.shape) // self.n_layers

    @property
    def row_chunks(self) -> int:
        """Chunks of a shard along its rows."""
        return self.shard_rows // self.chunk_rows

    @property
    def grid(self) -> tuple[int, ...]:
        """Chunks of a shard along each axis."""
        return (self.row_chunks, *(self.n_layers if i == 0 and self.has_layers else 1 for i in range(len(self.shape))))

    @property
    def chunk_shape(self) -> tuple[int, ...]:
        """Shape of an inner chunk: some rows, one layer, everything else."""
        return (self.chunk_rows, *((1, *self.shape[1:]) if self.has_layers else self.shape))

    @property
    def shard_shape(self) -> tuple[int, ...]:
        """Shape of a shard."""
        return (self.shard_rows, *self.shape)

    @property
    def chunk_bytes(self) -> int:
        """Uncompressed bytes of an inner chunk."""
        return self.chunk_rows * self.values * self.stored.itemsize

    @property
    def index_bytes(self) -> int:
        """Bytes of a shard's index, its checksum included."""
        return self.row_chunks * self.n_layers * 16 + 4


def stored_dtype(layout: Layout, encoding: Encoding, name: str) -> tuple[np.dtype[Any], bool]:
    """An array's type on disk, and whether it is integers that are the bits of bfloat16.

    Compressed, bfloat16 is kept as float32, which any reader understands and which takes 1.42 bytes per value, within
    2 % of what its bits would take; uncompressed it would take 4 bytes instead of 2, so the bits are kept.
    """
    if name == LOGITS or layout.dtype == "float32":
        return np.dtype("<f4"), False
    if layout.dtype == "float16":
        return np.dtype("<f2"), False
    return (np.dtype("<u2"), True) if encoding.compression == "none" else (np.dtype("<f4"), False)


def row_shape(layout: Layout, name: str) -> tuple[int, ...]:
    """Shape of one row of an array."""
    if name == LOGITS:
        assert layout.vocab_size is not None
        return (layout.vocab_size,)
    if isinstance(layout.positions, str):
        return (len(layout.layers), layout.d_model)
    return (len(layout.layers), len(layout.positions), layout.d_model)


def array_specs(layout: Layout, encoding: Encoding, geometry: Geometry) -> dict[str, ArraySpec]:
    """All arrays of data of a store."""
    specs = {}
    for name in layout.array_names:
        stored, bits = stored_dtype(layout, encoding, name)
        dims: tuple[str, ...] = ("prompt", "layer", "position", "d_model")
        rows, n_layers = geometry.shard_prompts, len(layout.layers)
        if name == LOGITS:
            dims, n_layers = ("prompt", "vocab"), 1
        elif geometry.shard_tokens is not None:
            dims, rows = ("token", "layer", "d_model"), geometry.shard_tokens
        specs[name] = ArraySpec(
            name, row_shape(layout, name), dims, n_layers, stored, bits, rows, geometry.chunk_rows[name]
        )
    return specs


def row_bytes(layout: Layout, encoding: Encoding, name: str) -> int:
    """Uncompressed bytes of one row (a prompt, or a token in stores of all positions) of an array."""
    return math.prod(row_shape(layout, name)) * stored_dtype(layout, encoding, name)[0].itemsize


def choose_geometry(
    layout: Layout,
    encoding: Encoding,
    n_prompts: int | None = None,
    n_tokens: int | None = None,
    longest: int | None = None,
    context: int | None = None,
) -> Geometry:
    """Choose shards and chunks for a planned number of prompts, of their tokens in all and of the longest prompt.

    With all positions stored there are rows for a later prompt of ``context`` tokens, as far as INDEX_SHARE allows.
    """
    prompts = n_prompts or 1
    mean_tokens = max(1.0, n_tokens / prompts) if n_tokens else float(TYPICAL_TOKENS)
    bytes_of = {name: row_bytes(layout, encoding, name) for name in layout.array_names}
    hooks = sum(bytes_of[name] for name in layout.hook_points)
    per_prompt = hooks * (mean_tokens if layout.ragged else 1) + bytes_of.get(LOGITS, 0)
    planned = per_prompt * prompts if n_prompts else USUAL * SHARES
    shard_bytes = encoding.shard_bytes or _auto_shard_bytes(planned, len(layout.array_names))
    layer_bytes = bytes_of[layout.hook_points[0]] // len(layout.layers)
    if layout.ragged:
        least = max(longest or 1, 8)
        tokens, token_chunk = _rows(max(least, int(shard_bytes // (per_prompt / mean_tokens))), layer_bytes, least)
        entries = INDEX_SHARE * shard_bytes / 16 / len(layout.layers) / len(layout.hook_points)
        room = min(context or tokens, int(entries * token_chunk))
        shard_tokens = max(tokens, -(-room // token_chunk) * token_chunk)
        shard_prompts, full_tokens = max(1, math.ceil(2 * tokens / mean_tokens)), tokens
        chunks = dict.fromkeys(layout.hook_points, token_chunk)
    else:
        shard_prompts, chunk = _rows(max(1, int(shard_bytes // per_prompt)), layer_bytes)
        shard_tokens, full_tokens, chunks = None, None, dict.fromkeys(layout.hook_points, chunk)
    if LOGITS in bytes_of:
        most = max(1, CHUNK_BYTES // bytes_of[LOGITS])
        chunks[LOGITS] = max(n for n in range(1, min(most, shard_prompts) + 1) if shard_prompts % n == 0)
    return Geometry(shard_prompts, shard_tokens, chunks, full_tokens)


def _auto_shard_bytes(total: float, arrays: int) -> float:
    shared = min(max(total / SHARES, SMALLEST), USUAL)
    return min(max(total * arrays / OBJECTS, shared), LARGEST)


def _rows(target: int, layer_bytes: int, least: int = 1) -> tuple[int, int]:
    """(rows per shard, rows per chunk): the shard a whole number of chunks, neither above its aim by much."""
    if target >= 16:
        target -= target % 8
    chunk = max(1, min(CHUNK_BYTES // layer_bytes, target))
    if target % chunk:  # prefer a chunk that divides the shard, if one is near
        near = [n for n in range(chunk, chunk // 2, -1) if target % n == 0]
        chunk = near[0] if near else chunk
    rows = max(1, target // chunk) * chunk
    return (rows if rows >= least else math.ceil(least / chunk) * chunk), chunk
