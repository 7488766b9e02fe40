"""What a store will take on disk, before the work starts."""

from __future__ import annotations

from dataclasses import dataclass

from refusal_lightning.store.coordinates import CHUNK, PER_PROMPT
from refusal_lightning.store.geometry import Geometry, array_specs, plan_geometry
from refusal_lightning.store.layout import Encoding, Layout

RATIOS = {
    ("lz4", "float32"): 0.88,
    ("lz4", "float16"): 0.95,
    ("lz4", "bfloat16"): 0.40,
    ("zstd", "float32"): 0.88,
    ("zstd", "float16"): 0.90,
    ("zstd", "bfloat16"): 0.36,
}
"""Stored bytes per byte of the type on disk (float32 for compressed bfloat16), by (compression, dtype), as
`benchmarks/compression.py` measured them on real activations."""


@dataclass(frozen=True)
class Estimate:
    """Bytes and files of a store, or of an addition to one."""

    bytes: int
    """Upper bound: nothing compresses."""
    files: int
    """Files, folders not counted."""
    likely_bytes: int
    """With the compression ratio measured on real activations."""


def estimate(
    layout: Layout,
    encoding: Encoding,
    n_prompts: int,
    n_tokens_total: int | None = None,
    *,
    geometry: Geometry | None = None,
    shards: int | None = None,
) -> Estimate:
    """Bound of the bytes and number of files of ``n_prompts`` added at once to a fresh store (of this geometry).

    ``n_tokens_total`` is needed for stores of all positions; how many ``shards`` these make depends on each prompt's
    length, and where it is not given they are taken to be three quarters full at least.
    """
    geometry = geometry or plan_geometry(layout, encoding, n_prompts, n_tokens_total)
    specs = array_specs(layout, encoding, geometry)
    if shards is None:
        shards = -(-n_prompts // geometry.shard_prompts)
        if geometry.shard_tokens is not None:
            shards = max(shards, -(-(n_tokens_total or 0) * 4 // (3 * geometry.shard_tokens)))
    total, likely = 0, 0.0
    for spec in specs.values():
        rows = (n_tokens_total or 0) if spec.dims[0] == "token" else n_prompts
        chunks = -(-rows // spec.chunk_rows)
        if spec.dims[0] == "token" or shards > -(-rows // spec.shard_rows):  # several shards may be partly full
            chunks = min(chunks + shards, shards * spec.blocks)
        chunks *= spec.groups
        data = chunks * spec.chunk_bytes
        overhead = chunks * (4 if encoding.compression == "none" else 4 + 16) + shards * spec.index_bytes
        total += data + overhead
        likely += data * RATIOS.get((encoding.compression, layout.dtype), 1.0) + overhead
    rows = shards * geometry.shard_prompts
    small = 200 * min(rows, n_prompts) + 20_000
    coordinates = len(PER_PROMPT) * (1 + -(-rows // CHUNK)) + 2 * (1 if layout.ragged else 3)
    if layout.ragged:
        coordinates += 1 + -(-rows // CHUNK)
    return Estimate(total + small, len(specs) * (shards + 1) + coordinates + 2, round(likely) + small)
