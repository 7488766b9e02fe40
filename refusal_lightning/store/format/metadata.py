"""zarr metadata of the arrays of data: written by zarr itself, so that it is what zarr reads."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import zarr
from zarr.abc.buffer import Buffer
from zarr.codecs import BytesCodec, Crc32cCodec
from zarr.storage import MemoryStore

from refusal_lightning.store.format.bfloat16 import NAN
from refusal_lightning.store.format.chunking import ArraySpec
from refusal_lightning.store.format.compression import zarr_codec
from refusal_lightning.store.format.layout import Compression


def create_zarr_array(store: Any, spec: ArraySpec, compression: Compression, rows: int) -> zarr.Array[Any]:
    """Create the array of a spec in any zarr store, empty."""
    blosc = zarr_codec(compression, spec.stored.itemsize)
    return zarr.create_array(
        store,
        name=spec.name,
        shape=(rows, *spec.shape),
        shards=spec.shard_shape,
        chunks=spec.chunk_shape,
        dtype=spec.stored,
        fill_value=int(NAN) if spec.bfloat16_bits else np.nan,
        serializer=BytesCodec(endian="little"),
        compressors=[Crc32cCodec()] if blosc is None else [blosc, Crc32cCodec()],
        dimension_names=spec.dims,
        chunk_key_encoding={"name": "default", "separator": "."},
        attributes={"encoding": "bfloat16 bits: the upper half of a float32"} if spec.bfloat16_bits else {},
    )


def array_json(spec: ArraySpec, compression: Compression, rows: int) -> bytes:
    """The array's zarr.json."""
    held: dict[str, Buffer] = {}
    create_zarr_array(MemoryStore(held), spec, compression, rows)
    return held[f"{spec.name}/zarr.json"].to_bytes()


def same_metadata(one: bytes | None, other: bytes) -> bool:
    """Whether two zarr.json say the same."""
    try:
        return one is not None and json.loads(one) == json.loads(other)
    except ValueError:
        return False
