"""A selection of a store as one file that needs no zarr: safetensors or npz."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np

from refusal_lightning.errors import UserError
from refusal_lightning.store.activation_store import ActivationStore
from refusal_lightning.store.disk_errors import explained
from refusal_lightning.store.layout import LOGITS

_SAFETENSORS = {"float32": ("F32", "<f4"), "float16": ("F16", "<f2"), "bfloat16": ("BF16", "<u2")}


def export(
    url: str | Path,
    out: str | Path,
    format: Literal["safetensors", "npz"] = "safetensors",
    *,
    arrays: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
    label: str | None = None,
    split: str | None = None,
    dataset: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> int:
    """Write arrays of the complete prompts of a label, split and dataset (default: all) to one file; how many prompts.

    Each array is named and shaped as in the store; `layer` and `position` and `n_tokens` are arrays too. Hashes,
    labels, splits and datasets, in order, are string arrays of an npz, and JSON in the metadata of a safetensors
    file, with the store's identity. Activations of bfloat16 are BF16 tensors in safetensors, float32 in npz. The
    file is written part by part, and appears when it is whole. Raises UserError if nothing is selected.
    """
    if format not in ("safetensors", "npz"):
        raise UserError(f"export: the format is safetensors or npz, not {format!r}")
    store = ActivationStore.open(url, storage_options)
    where = {k: v for k, v in {"label": label, "split": split, "dataset": dataset}.items() if v is not None}
    prompts = store.prompts
    hashes = prompts.hashes(complete=True, **where)
    if not hashes:
        raise UserError(f"export: store {store.url} has no complete prompts with {where or 'any label'}")
    kept = np.isin(prompts.hash, hashes)
    rows = prompts.row[kept]
    text = {name: getattr(prompts, name)[kept].tolist() for name in ("hash", "label", "split", "dataset")}
    names = list(arrays) if arrays is not None else list(store.layout.array_names)
    small = {"n_tokens": prompts.n_tokens[kept], "layer": np.array(layers or store.layout.layers)}
    if not isinstance(store.layout.positions, str):
        small["position"] = np.array(store.layout.positions)
    large = [_Array(store, name, rows, None if name == LOGITS else layers) for name in names]
    path = Path(out)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    with explained(str(path), path.name):
        try:
            with partial.open("wb") as file:
                if format == "npz":
                    _write_npz(file, large, {**small, **{k: np.array(v, dtype=np.str_) for k, v in text.items()}})
                else:
                    about = {"identity": json.dumps(store.identity), **{k: json.dumps(v) for k, v in text.items()}}
                    _write_safetensors(file, large, small, about, store.layout.dtype)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    return len(hashes)


class _Array:
    """One array of the selection, read part by part."""

    def __init__(self, store: ActivationStore, name: str, rows: np.ndarray, layers: Sequence[int] | None) -> None:
        self.name, self._store, self._rows, self._layers = name, store, rows, layers
        first = store.read(name, rows[:1], layers)
        count = int(store.token_offsets(rows)[-1]) if store.layout.ragged and name != LOGITS else len(rows)
        self.shape = (count, *first.shape[1:])

    def parts(self) -> Iterator[np.ndarray]:
        """The rows in order, as float32."""
        for rows in self._store.by_shard(self._rows):
            yield self._store.read(self.name, rows, self._layers)


def _write_npz(file: IO[bytes], large: Sequence[_Array], small: Mapping[str, np.ndarray]) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name, values in small.items():
            with archive.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array(member, values, allow_pickle=False)
        for array in large:
            with archive.open(f"{array.name}.npy", "w", force_zip64=True) as member:
                header = {"descr": "<f4", "fortran_order": False, "shape": array.shape}
                np.lib.format.write_array_header_1_0(member, header)
                for part in array.parts():
                    member.write(np.ascontiguousarray(part).data)


def _write_safetensors(
    file: IO[bytes],
    large: Sequence[_Array],
    small: Mapping[str, np.ndarray],
    about: Mapping[str, str],
    dtype: str,
) -> None:
    header: dict[str, Any] = {"__metadata__": dict(about)}
    end = 0
    for name, shape, kind, size in [
        *((name, values.shape, "I64", 8) for name, values in small.items()),
        *((a.name, a.shape, *_kind(a.name, dtype)) for a in large),
    ]:
        begin, end = end, end + int(np.prod(shape)) * size
        header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [begin, end]}
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    file.write(len(encoded).to_bytes(8, "little") + encoded)
    for values in small.values():
        file.write(np.ascontiguousarray(values, dtype="<i8").data)
    for array in large:
        kind = _kind(array.name, dtype)[0]
        for part in array.parts():
            if kind == "BF16":
                part = (part.view("<u4") >> 16).astype("<u2")  # exact: these are bfloat16 values
            elif kind == "F16":
                part = part.astype("<f2")
            file.write(np.ascontiguousarray(part).data)


def _kind(name: str, dtype: str) -> tuple[str, int]:
    """(safetensors' name of an array's type, bytes per value)."""
    kind, stored = _SAFETENSORS["float32" if name == LOGITS else dtype]
    return kind, np.dtype(stored).itemsize
