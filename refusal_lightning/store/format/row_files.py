"""The plan as zarr readers see it: the group, coordinate arrays, and the shapes of the data. All follow from the log.

Whoever planned writes them; where that was cut short, the next process that opens the store to write does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from refusal_lightning.store.backend.protocol import Backend
from refusal_lightning.store.errors import StoreError
from refusal_lightning.store.format import coordinates, log
from refusal_lightning.store.format.chunking import array_specs
from refusal_lightning.store.format.log import Logged
from refusal_lightning.store.format.manifest import KEY, group_json
from refusal_lightning.store.format.metadata import array_json, same_metadata

Column = tuple[np.ndarray, tuple[str, ...]]


def write(objects: Backend, store: Logged) -> None:
    """Write everything that follows from a plan; the group comes last."""
    for key, data in metadata(store).items():
        objects.write(key, [[data]])
    for name, (values, dims) in columns(store).items():
        coordinates.write_array(objects, name, values, dims)
    objects.write(KEY, [[group_json(store.manifest)]])


def publish(objects: Backend, store: Logged) -> Logged:
    """Write it, and once more where another process has planned since, so that the newest stays; the store as then."""
    while True:
        write(objects, store)
        newest = log.read(objects, store)
        if newest is None or newest is store:
            return store
        store = newest


def metadata(store: Logged) -> dict[str, bytes]:
    """zarr.json of each array of data."""
    files = {}
    manifest = store.manifest
    for name, spec in array_specs(manifest.layout, manifest.encoding, manifest.geometry).items():
        rows = store.plan.token_rows if spec.dims[0] == "token" else len(store.plan.records)
        files[f"{name}/zarr.json"] = array_json(spec, manifest.encoding.compression, rows)
    return files


def columns(store: Logged) -> Mapping[str, Column]:
    """Every coordinate array: name to (values, axes)."""
    found = dict(coordinates.fixed_columns(store.manifest.layout, store.manifest.position_tokens))
    for name, values in coordinates.prompt_columns(store.plan.records).items():
        found[name] = values, ("prompt",)
    if store.manifest.layout.ragged:
        found["token_start"] = store.plan.token_starts, ("prompt",)
    return found


def is_current(objects: Backend, store: Logged) -> bool:
    """Whether what zarr readers see is of this plan, as far as a few small files tell."""
    if not same_metadata(objects.read(KEY), group_json(store.manifest)):  # the log may name its keys in another order
        return False
    fixed = coordinates.fixed_columns(store.manifest.layout, store.manifest.position_tokens)
    lengths = {name: len(values) for name, (values, _) in fixed.items()}
    lengths |= dict.fromkeys(coordinates.PER_PROMPT, len(store.plan.records))
    if store.manifest.layout.ragged:
        lengths["token_start"] = len(store.plan.records)
    return all(coordinates.length(objects, name) == length for name, length in lengths.items()) and all(
        same_metadata(objects.read(key), data) for key, data in metadata(store).items()
    )


def problems(objects: Backend, store: Logged) -> Iterator[tuple[str, str]]:
    """(key, what is wrong) for everything that zarr readers would see otherwise than it is planned."""
    if store.digests and not same_metadata(objects.read(KEY), group_json(store.manifest)):
        yield KEY, f"the group's {KEY} is not what the store's log says"
    for key, data in metadata(store).items():
        if not same_metadata(objects.read(key), data):
            yield key, f"{key} is not what is planned"
    for name, (values, dims) in columns(store).items():
        try:
            good = np.array_equal(coordinates.read_array(objects, name), values)
        except StoreError:
            good = False
        if store.digests or name != "prompt":  # in format 1 its attributes hold a copy of the manifest
            described = coordinates.metadata(name, values.shape, values.dtype, dims)
            good &= same_metadata(objects.read(f"{name}/zarr.json"), described)
        if not good:
            yield name, f"coordinate array {name} is not what is planned"
