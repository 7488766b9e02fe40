"""A selection of a store as one file that needs no zarr: safetensors or npz."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np

from refusal_lightning.errors import UserError
from refusal_lightning.io.files import replacing
from refusal_lightning.store.activation_store import ActivationStore
from refusal_lightning.store.backend.os_errors import translate_os_errors
from refusal_lightning.store.format.layout import LOGITS

FORMATS = ("safetensors", "npz")
_SAFETENSORS = {"float32": ("F32", "<f4"), "float16": ("F16", "<f2"), "bfloat16": ("BF16", "<u2")}
_SMALL = {"<i8": "I64", "|u1": "U8"}
"""safetensors' names of the small arrays' types, by numpy's."""


def export(
    url: str | Path,
    out: str | Path,
    format: Literal["safetensors", "npz"] | None = None,
    *,
    arrays: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
    label: str | None = None,
    split: str | None = None,
    dataset: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> int:
    """Write arrays of the complete prompts of a label, split and dataset (default: all) to one file; how many prompts.

    The file is what its suffix says, .safetensors or .npz; ``format`` may say so too. Each array is named and shaped
    as in the store; `layer`, `position` and `n_tokens` are arrays too. Of the prompts, in order: an npz has hashes,
    labels, splits and datasets as arrays of strings. A safetensors file has `hash` as 32 bytes each, and `label`,
    `split` and `dataset` as numbers whose meanings, in order, are a JSON list of that name in its metadata, which
    therefore stays small; the store's identity stands there too. Activations of bfloat16 are BF16 tensors in
    safetensors, float32 in npz. The file is written part by part, and appears when it is whole. Raises UserError if
    the suffix is neither or nothing is selected.
    """
    path = Path(out)
    kind = _format_of(path, format)
    store = ActivationStore.open(url, storage_options)
    where = {k: v for k, v in {"label": label, "split": split, "dataset": dataset}.items() if v is not None}
    prompts = store.prompts
    kept = prompts.where(complete=True, **where)
    rows = prompts.row[kept]
    if not len(rows):
        raise UserError(f"export: store {store.url} has no complete prompts with {where or 'any label'}")
    text = {name: getattr(prompts, name)[kept] for name in ("hash", "label", "split", "dataset")}
    names = list(arrays) if arrays is not None else list(store.layout.array_names)
    small = {"n_tokens": prompts.n_tokens[kept], "layer": np.array(layers or store.layout.layers)}
    if not isinstance(store.layout.positions, str):
        small["position"] = np.array(store.layout.positions)
    large = [_Array(store, name, rows, None if name == LOGITS else layers) for name in names]
    with translate_os_errors(str(path), path.name), replacing(path) as file:
        if kind == "npz":
            _write_npz(file, large, {**small, **{k: v.astype(np.str_) for k, v in text.items()}})
        else:
            numbered, meanings = _as_numbers(text)
            about = {"identity": json.dumps(store.identity), **meanings}
            _write_safetensors(file, large, {**small, **numbered}, about, store.layout.dtype)
    return len(rows)


def _format_of(path: Path, stated: str | None) -> str:
    """What a file's name says that it is. Raises UserError for another suffix, or where ``stated`` differs."""
    suffix = path.suffix.removeprefix(".")
    if suffix not in FORMATS:
        raise UserError(f"export: {path.name!r} must end in .safetensors or .npz, which says what is written")
    if stated not in (None, suffix):
        raise UserError(f"export: {path.name!r} says {suffix} and the format says {stated}; leave the format out")
    return suffix


def _as_numbers(text: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Columns of text as tensors, and the JSON lists that say what their numbers mean: a safetensors header holds
    text, but readers refuse one above 100 MB, which a million prompts' would be."""
    hashes = np.frombuffer(bytes.fromhex("".join(text["hash"].tolist())), dtype=np.uint8).reshape(-1, 32)
    numbered, meanings = {"hash": hashes}, {}
    for name in ("label", "split", "dataset"):
        number_of = {value: number for number, value in enumerate(dict.fromkeys(text[name].tolist()))}
        numbered[name] = np.array([number_of[value] for value in text[name].tolist()], dtype=np.int64)
        meanings[name] = json.dumps(list(number_of))
    return numbered, meanings


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
        *((name, values.shape, _SMALL[values.dtype.str], values.itemsize) for name, values in small.items()),
        *((a.name, a.shape, *_kind(a.name, dtype)) for a in large),
    ]:
        begin, end = end, end + int(np.prod(shape)) * size
        header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [begin, end]}
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    file.write(len(encoded).to_bytes(8, "little") + encoded)
    for values in small.values():
        file.write(np.ascontiguousarray(values).data)
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
