"""What a store will take on disk, before the work starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from refusal_lightning.store.format.chunking import Geometry, array_specs, choose_geometry, row_bytes
from refusal_lightning.store.format.coordinates import CHUNK, PER_PROMPT
from refusal_lightning.store.format.layout import LOGITS, Encoding, Layout
from refusal_lightning.store.format.shard_file import BINDING_BYTES

RATIOS = {
    ("lz4", "float32"): (0.878, 0.921),
    ("lz4", "float16"): (0.95, 0.514),
    ("lz4", "bfloat16"): (0.391, 0.421),
    ("zstd", "float32"): (0.874, 0.883),
    ("zstd", "float16"): (0.896, 0.48),
    ("zstd", "bfloat16"): (0.352, 0.362),
}
"""Stored bytes per byte of the type on disk (float32 for compressed bfloat16), by (compression, dtype): activations,
and logits, which are float32 with a half type's values. Measured on the demo model's stores."""


@dataclass(frozen=True)
class Estimate:
    """Bytes and files of a store, or of an addition to one."""

    bytes: int
    """Upper bound: nothing compresses."""
    files: int
    """Files, folders not counted."""
    likely_bytes: int
    """With the compression ratios measured on real activations; a chunk's empty rows take nothing."""


def estimate(
    layout: Layout,
    encoding: Encoding,
    n_prompts: int,
    n_tokens_total: int | None = None,
    *,
    geometry: Geometry | None = None,
    shards: int | None = None,
    ratios: Mapping[str, float] | None = None,
) -> Estimate:
    """Bound of the bytes and number of files of ``n_prompts`` added at once to a fresh store (of this geometry).

    ``n_tokens_total`` is needed for stores of all positions; how many ``shards`` these make depends on each prompt's
    length, and where it is not given they are taken to be three quarters full at least. ``ratios`` are compression
    ratios by array that were measured on a store of this model; else the demo model's are taken.
    """
    geometry = geometry or choose_geometry(layout, encoding, n_prompts, n_tokens_total)
    specs = array_specs(layout, encoding, geometry)
    if shards is None:
        shards = -(-n_prompts // geometry.shard_prompts)
        if geometry.fill_tokens is not None:
            shards = max(shards, -(-(n_tokens_total or 0) * 4 // (3 * geometry.fill_tokens)))
    total, likely = 0, 0.0
    for name, spec in specs.items():
        rows = (n_tokens_total or 0) if spec.per_token else n_prompts
        chunks = -(-rows // spec.chunk_rows)
        if spec.per_token or shards > -(-rows // spec.shard_rows):  # several shards may be partly full
            chunks = min(chunks + shards, shards * spec.row_chunks)
        chunks *= spec.n_layers
        data = chunks * spec.chunk_bytes
        overhead = chunks * (4 if encoding.compression == "none" else 4 + 16)
        overhead += shards * (spec.index_bytes + BINDING_BYTES)
        total += data + overhead
        usual = RATIOS.get((encoding.compression, layout.dtype))
        if usual is None:
            likely += data + overhead
        else:
            ratio = (ratios or {}).get(name, usual[name == LOGITS])
            likely += rows * row_bytes(layout, encoding, name) * ratio + overhead
    rows = shards * geometry.shard_prompts
    small = 200 * min(rows, n_prompts) + 20_000
    coordinates = len(PER_PROMPT) * (1 + -(-rows // CHUNK)) + 2 * (1 if layout.ragged else 3)
    if layout.ragged:
        coordinates += 1 + -(-rows // CHUNK)
    return Estimate(total + small, len(specs) * (shards + 1) + coordinates + 3, round(likely) + small)
