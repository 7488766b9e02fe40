"""The small labelled arrays beside the data: which prompts, layers and positions the rows and columns are."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import zarr
from zarr.abc.buffer import Buffer
from zarr.buffer import cpu
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.storage import MemoryStore

from refusal_lightning.errors import UserError
from refusal_lightning.store.backend.protocol import Backend
from refusal_lightning.store.errors import StoreError
from refusal_lightning.store.format.layout import Layout, PromptRecord

CHUNK = 1 << 16
TEXT = np.dtypes.StringDType()
PER_PROMPT = ("prompt", "n_tokens", "label", "split", "dataset")
"""Coordinates of the prompt axis; `prompt` is the hash, empty where a row belongs to no prompt."""


def encoded(name: str, values: np.ndarray, dims: Sequence[str], chunk: int = CHUNK) -> dict[str, bytes]:
    """A whole zarr array as objects by key, checksums on; the metadata comes last."""
    held: dict[str, Buffer] = {}
    _create(MemoryStore(held), name, values.shape, values.dtype, tuple(dims), chunk)[...] = values
    files = {key: value.to_bytes() for key, value in held.items() if key.startswith(f"{name}/")}
    metadata = files.pop(f"{name}/zarr.json")
    return {**files, f"{name}/zarr.json": metadata}


@lru_cache(maxsize=64)
def metadata(
    name: str, shape: tuple[int, ...], dtype: np.dtype[Any], dims: tuple[str, ...], chunk: int = CHUNK
) -> bytes:
    """The zarr.json of such an array."""
    held: dict[str, Buffer] = {}
    _create(MemoryStore(held), name, shape, dtype, dims, chunk)
    return held[f"{name}/zarr.json"].to_bytes()


def _create(
    store: MemoryStore, name: str, shape: tuple[int, ...], dtype: np.dtype[Any], dims: tuple[str, ...], chunk: int
) -> zarr.Array[Any]:
    is_text = dtype.kind == "T"
    return zarr.create_array(
        store,
        name=name,
        shape=shape,
        dtype=dtype,
        chunks=tuple(min(chunk, max(n, 1)) for n in shape) if name not in PER_PROMPT else (chunk,),
        compressors=[ZstdCodec(level=3), Crc32cCodec()],
        fill_value="" if is_text else np.zeros((), dtype).item(),
        dimension_names=list(dims),
        chunk_key_encoding={"name": "default", "separator": "."},
        config={"write_empty_chunks": True},
    )


def decoded(files: Mapping[str, bytes], name: str) -> np.ndarray:
    """The inverse of ``encoded``. Raises whatever zarr raises on damage."""
    store = MemoryStore({key: cpu.Buffer.from_bytes(data) for key, data in files.items()}, read_only=True)
    return np.asarray(zarr.open_array(store, path=name, mode="r")[...])


def read_array(backend: Backend, name: str) -> np.ndarray:
    """One coordinate array. Raises StoreError if it is damaged or missing."""
    try:
        return read_whole(backend, name)
    except StoreError:
        raise
    except Exception as error:
        raise StoreError(
            f"store {backend.url}: coordinate array {name} is damaged or missing ({type(error).__name__}: {error})"
        ) from error


def read_records(backend: Backend) -> list[PromptRecord | None]:
    """Every row's prompt, from the coordinates of the prompt axis. Raises StoreError on damage."""
    columns = [read_array(backend, name).tolist() for name in PER_PROMPT]
    try:
        return [PromptRecord(*row) if row[0] else None for row in zip(*columns, strict=False)]
    except UserError as error:
        raise StoreError(f"store {backend.url}: a row of the coordinate arrays is damaged ({error})") from error


def length(backend: Backend, name: str) -> int | None:
    """The length of an array of one axis, from its metadata; None if that cannot be read."""
    try:
        (found,) = json.loads(backend.read(f"{name}/zarr.json") or b"")["shape"]
        return int(found)
    except (ValueError, KeyError, TypeError):
        return None


def read_whole(backend: Backend, path: str) -> np.ndarray:
    """The array at ``path``, none of its chunks missing.

    Chunks are asked for by name, since a listing may pass over a file that is being replaced; and each must be there,
    since zarr reads a missing one as fill values. Raises FileNotFoundError, and whatever zarr raises on damage.
    """
    found: dict[str, bytes] = {}

    def take(key: str) -> bytes:
        if not (data := backend.read(key)):
            raise FileNotFoundError(f"{key} is missing or empty")
        found[key] = data
        return data

    described = json.loads(take(f"{path}/zarr.json"))
    shape, chunk = described["shape"], described["chunk_grid"]["configuration"]["chunk_shape"]
    for place in itertools.product(*(range(-(-n // size)) for n, size in zip(shape, chunk, strict=True))):
        take(".".join([f"{path}/c", *map(str, place)]))
    return decoded(found, path)


def prompt_columns(records: Sequence[PromptRecord | None]) -> dict[str, np.ndarray]:
    """One array per coordinate of the prompt axis; None is a row that belongs to no prompt."""

    def text(field: str) -> np.ndarray:
        return np.array([getattr(r, field) if r else "" for r in records], dtype=TEXT)

    return {
        "prompt": text("hash"),
        "n_tokens": np.array([r.n_tokens if r else 0 for r in records], dtype="<i8"),
        "label": text("label"),
        "split": text("split"),
        "dataset": text("dataset"),
    }


def fixed_columns(layout: Layout, position_tokens: Sequence[str] | None) -> dict[str, tuple[Any, tuple[str, ...]]]:
    """Coordinates that follow from the layout alone: name to (values, axes)."""
    columns: dict[str, tuple[Any, tuple[str, ...]]] = {"layer": (np.array(layout.layers, dtype="<i8"), ("layer",))}
    if not isinstance(layout.positions, str):
        columns["position"] = (np.array(layout.positions, dtype="<i8"), ("position",))
        if position_tokens is not None:
            columns["token"] = (np.array(list(position_tokens), dtype=TEXT), ("position",))
    return columns


def write_array(backend: Backend, name: str, values: np.ndarray, dims: Sequence[str]) -> None:
    """Write a whole coordinate array; rows that were there before stay as they are for any reader at any moment."""
    for key, data in encoded(name, values, dims).items():
        backend.write(key, [[data]])
