"""Small derived arrays (scores of candidates, ...) kept under results/ in the same group, replaced as a whole."""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from refusal_lightning.errors import UserError
from refusal_lightning.store.backend.protocol import Backend
from refusal_lightning.store.errors import StoreError
from refusal_lightning.store.format.coordinates import encoded, metadata, read_whole
from refusal_lightning.store.format.manifest import digest_of
from refusal_lightning.store.format.metadata import same_metadata

FOLDER = "results"
GROUP = f"{FOLDER}/zarr.json"
_CHUNK = 1 << 22
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def save(
    backend: Backend,
    key: str,
    arrays: Mapping[str, np.ndarray],
    attrs: Mapping[str, Any],
    saved: float | None = None,
) -> None:
    """Write the arrays under a fresh version, then flip the result's marker to it: no reader sees half.

    ``saved`` is when it was saved, seconds since 1970: now, unless it is a copy of what was saved elsewhere.
    """
    for name in (key, *arrays):
        if not _NAME.fullmatch(name):
            raise UserError(f"store {backend.url}: a result's name holds letters, digits, . _ and -, not {name!r}")
    version = f"v{uuid.uuid4().hex}"
    before = _version(backend, key)
    names = {}
    for name, values in arrays.items():
        array = np.asarray(values)
        for file, data in encoded(name, array, _dims(array), _CHUNK).items():
            backend.write(f"{FOLDER}/{key}/{version}/{file}", [[data]])
        names[name] = list(array.shape)
    backend.write(f"{FOLDER}/{key}/{version}/zarr.json", [[_group({})]])
    backend.write(GROUP, [[_group({})]])
    when = time.time() if saved is None else saved
    marker = {"version": version, "arrays": names, "attrs": dict(attrs), "saved": when}
    backend.write(f"{FOLDER}/{key}/zarr.json", [[_group({**marker, "digest": digest_of(marker)})]])
    if before:
        backend.delete_folder(f"{FOLDER}/{key}/{before}")


def load(backend: Backend, key: str) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
    """(arrays, attrs) as they were saved, bit for bit; None if there is no such result. Raises StoreError on damage."""
    for _ in range(10):
        marker = _marker(backend, key)
        if marker is None:
            return None
        try:
            folder = f"{FOLDER}/{key}/{marker['version']}"
            return {name: read_whole(backend, f"{folder}/{name}") for name in marker["arrays"]}, marker["attrs"]
        except Exception as error:
            if _version(backend, key) == marker["version"]:
                raise StoreError(
                    f"store {backend.url}: result {key} is damaged ({error}); delete {FOLDER}/{key} to have it "
                    "computed again"
                ) from error
    raise StoreError(f"store {backend.url}: result {key} is being replaced over and over")


def saved(backend: Backend, key: str) -> float:
    """When a result was saved, seconds since 1970: 0 by a version that did not note it, -1 where there is none."""
    marker = _marker(backend, key)
    return -1.0 if marker is None else float(marker.get("saved", 0.0))


def why_not_writable(backend: Backend) -> str | None:
    """Why nothing can be saved, in words; None if something can. Writes a small object and deletes it."""
    probe = f"{FOLDER}/.probe-{uuid.uuid4().hex}"
    try:
        backend.write(probe, [[b"-"]])
        backend.delete(probe)
    except (UserError, StoreError) as error:
        return str(error)
    return None


def listed(backend: Backend) -> list[str]:
    """Names of all results."""
    return [name for name in sorted(backend.folders(FOLDER)) if _version(backend, name)]


def problems(backend: Backend) -> Iterator[tuple[str, str]]:
    """(key, what is wrong) for every result that is damaged, in what zarr readers look at too."""
    names = backend.folders(FOLDER)
    if names and not same_metadata(backend.read(GROUP), _group({})):
        yield GROUP, f"{GROUP} is not the group that holds the results"
    for name in names:
        folder = f"{FOLDER}/{name}"
        try:
            found, version = load(backend, name), _version(backend, name)
        except StoreError as error:
            yield folder, str(error)
            continue
        if found is None:
            yield folder, f"store {backend.url}: result {name} has lost its zarr.json"
            continue
        described = {f"{folder}/{version}/zarr.json": _group({})}
        for array, values in found[0].items():
            shape, dtype = values.shape, values.dtype
            described[f"{folder}/{version}/{array}/zarr.json"] = metadata(array, shape, dtype, _dims(values), _CHUNK)
        wrong = [key for key, data in described.items() if not same_metadata(backend.read(key), data)]
        if wrong and _version(backend, name) == version:
            yield folder, f"store {backend.url}: result {name} is damaged: {wrong[0]} is not what was written"


def write_group(backend: Backend) -> None:
    """Write the group that holds the results, if there are any."""
    if backend.folders(FOLDER):
        backend.write(GROUP, [[_group({})]])


def _dims(values: np.ndarray) -> tuple[str, ...]:
    return tuple(f"dim_{i}" for i in range(values.ndim))


def _marker(backend: Backend, key: str) -> dict[str, Any] | None:
    data = backend.read(f"{FOLDER}/{key}/zarr.json")
    if data is None:
        return None
    try:
        node = json.loads(data)
        marker: dict[str, Any] = dict(node["attributes"])
        digest = marker.pop("digest", None)  # results of format 1 have none
        sound = set(marker) - {"saved"} == {"version", "arrays", "attrs"} and digest in (None, digest_of(marker))
        if not sound or {**node, "attributes": {}} != json.loads(_group({})):
            raise ValueError("it is not what was written")
        return marker
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"store {backend.url}: result {key} is damaged: its zarr.json cannot be read ({error}); delete "
            f"{FOLDER}/{key} to have it computed again"
        ) from error


def _version(backend: Backend, key: str) -> str | None:
    marker = _marker(backend, key)
    return None if marker is None else marker["version"]


def _group(attributes: dict[str, Any]) -> bytes:
    node = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    return json.dumps(node, indent=2, ensure_ascii=False).encode()
