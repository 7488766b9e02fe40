"""The rows as zarr readers see them: the group, coordinate arrays, and the shapes of the data. All follow from the log.

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


def write(backend: Backend, store: Logged) -> None:
    """Write everything that follows from the rows; the group comes last."""
    for key, data in metadata(store).items():
        backend.write(key, [[data]])
    for name, (values, dims) in columns(store).items():
        coordinates.write_array(backend, name, values, dims)
    backend.write(KEY, [[group_json(store.manifest)]])


def publish(backend: Backend, store: Logged) -> Logged:
    """Write it, and once more where another process has planned since, so that the newest stays; the store as then."""
    while True:
        write(backend, store)
        newest = log.read(backend, store)
        if newest is None or newest is store:
            return store
        store = newest


def metadata(store: Logged) -> dict[str, bytes]:
    """zarr.json of each array of data."""
    files = {}
    manifest = store.manifest
    for name, spec in array_specs(manifest.layout, manifest.encoding, manifest.geometry).items():
        rows = store.table.token_axis if spec.per_token else len(store.table.records)
        files[f"{name}/zarr.json"] = array_json(spec, manifest.encoding.compression, rows)
    return files


def columns(store: Logged) -> Mapping[str, Column]:
    """Every coordinate array: name to (values, axes)."""
    found = dict(coordinates.fixed_columns(store.manifest.layout, store.manifest.position_tokens))
    for name, values in coordinates.prompt_columns(store.table.records).items():
        found[name] = values, ("prompt",)
    if store.manifest.layout.ragged:
        found["token_start"] = store.table.token_starts, ("prompt",)
    return found


def is_current(backend: Backend, store: Logged) -> bool:
    """Whether what zarr readers see is of these rows, as far as a few small files tell."""
    if not same_metadata(backend.read(KEY), group_json(store.manifest)):  # the log may name its keys in another order
        return False
    fixed = coordinates.fixed_columns(store.manifest.layout, store.manifest.position_tokens)
    lengths = {name: len(values) for name, (values, _) in fixed.items()}
    lengths |= dict.fromkeys(coordinates.PER_PROMPT, len(store.table.records))
    if store.manifest.layout.ragged:
        lengths["token_start"] = len(store.table.records)
    return all(coordinates.length(backend, name) == length for name, length in lengths.items()) and all(
        same_metadata(backend.read(key), data) for key, data in metadata(store).items()
    )


def problems(backend: Backend, store: Logged) -> Iterator[tuple[str, str]]:
    """(key, what is wrong) for everything that zarr readers would see otherwise than it is planned."""
    if store.digests and not same_metadata(backend.read(KEY), group_json(store.manifest)):
        yield KEY, f"the group's {KEY} is not what the store's log says"
    for key, data in metadata(store).items():
        if not same_metadata(backend.read(key), data):
            yield key, f"{key} is not what is planned"
    for name, (values, dims) in columns(store).items():
        try:
            good = np.array_equal(coordinates.read_array(backend, name), values)
        except StoreError:
            good = False
        if store.digests or name != "prompt":  # in format 1 its attributes hold a copy of the manifest
            described = coordinates.metadata(name, values.shape, values.dtype, dims)
            good &= same_metadata(backend.read(f"{name}/zarr.json"), described)
        if not good:
            yield name, f"coordinate array {name} is not what is planned"
