"""Small derived arrays (scores of candidates, ...) kept under results/ in the same group, replaced as a whole."""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Mapping
from typing import Any

import numpy as np

from refusal_lightning.errors import UserError
from refusal_lightning.store.coordinates import encoded, read_whole
from refusal_lightning.store.errors import StoreError
from refusal_lightning.store.objects import Objects

FOLDER = "results"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def save(
    objects: Objects,
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
            raise UserError(f"store {objects.url}: a result's name holds letters, digits, . _ and -, not {name!r}")
    version = f"v{uuid.uuid4().hex}"
    before = _version(objects, key)
    names = {}
    for name, values in arrays.items():
        array = np.asarray(values)
        dims = [f"dim_{i}" for i in range(array.ndim)]
        for file, data in encoded(name, array, dims, chunk=1 << 22).items():
            objects.write(f"{FOLDER}/{key}/{version}/{file}", [[data]])
        names[name] = list(array.shape)
    objects.write(f"{FOLDER}/{key}/{version}/zarr.json", [[_group({})]])
    objects.write(f"{FOLDER}/zarr.json", [[_group({})]])
    when = time.time() if saved is None else saved
    marker = {"version": version, "arrays": names, "attrs": dict(attrs), "saved": when}
    objects.write(f"{FOLDER}/{key}/zarr.json", [[_group(marker)]])
    if before:
        objects.delete_folder(f"{FOLDER}/{key}/{before}")


def load(objects: Objects, key: str) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
    """(arrays, attrs) as they were saved, bit for bit; None if there is no such result. Raises StoreError on damage."""
    for _ in range(10):
        marker = _marker(objects, key)
        if marker is None:
            return None
        try:
            folder = f"{FOLDER}/{key}/{marker['version']}"
            return {name: read_whole(objects, f"{folder}/{name}") for name in marker["arrays"]}, marker["attrs"]
        except Exception as error:
            if _version(objects, key) == marker["version"]:
                raise StoreError(
                    f"store {objects.url}: result {key} is damaged ({error}); delete {FOLDER}/{key} to have it "
                    "computed again"
                ) from error
    raise StoreError(f"store {objects.url}: result {key} is being replaced over and over")


def saved(objects: Objects, key: str) -> float:
    """When a result was saved, seconds since 1970: 0 by a version that did not note it, -1 where there is none."""
    marker = _marker(objects, key)
    return -1.0 if marker is None else float(marker.get("saved", 0.0))


def listed(objects: Objects) -> list[str]:
    """Names of all results."""
    return [name for name in sorted(objects.folders(FOLDER)) if _version(objects, name)]


def _marker(objects: Objects, key: str) -> dict[str, Any] | None:
    data = objects.read(f"{FOLDER}/{key}/zarr.json")
    if data is None:
        return None
    try:
        marker: dict[str, Any] = json.loads(data)["attributes"]
        return marker
    except (ValueError, KeyError) as error:
        raise StoreError(f"store {objects.url}: result {key} is damaged: its zarr.json cannot be read") from error


def _version(objects: Objects, key: str) -> str | None:
    marker = _marker(objects, key)
    return None if marker is None else marker["version"]


def _group(attributes: dict[str, Any]) -> bytes:
    node = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    return json.dumps(node, indent=2, ensure_ascii=False).encode()
