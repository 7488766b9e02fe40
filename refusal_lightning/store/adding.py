"""Adding to a store: rows are planned for prompts, what they take is estimated, shards are written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from refusal_lightning.errors import UserError
from refusal_lightning.store.backend.protocol import Backend
from refusal_lightning.store.estimate import Estimate, estimate
from refusal_lightning.store.format import log, row_files
from refusal_lightning.store.format.chunking import row_bytes
from refusal_lightning.store.format.layout import PromptRecord
from refusal_lightning.store.format.shard_file import BINDING_BYTES, by_layer, check_shape, encode, shard_key
from refusal_lightning.store.shards import fitting, shard_sizes
from refusal_lightning.store.state import StoreState


def add_prompts(state: StoreState, records: Sequence[PromptRecord], note: dict[str, Any], *, apart: bool) -> int:
    """Plan rows for the prompts that are lacking, behind what every other process has planned; how many were.

    ``apart`` plans those again whose incomplete shard holds other prompts too.
    """
    state.backend.remove_stale_partials()
    state.refresh()
    while True:
        table = state.table
        again = table.beside_others([r.hash for r in records], state.complete_shards()) if apart else set()
        if not again and all(record.hash in table.row_of for record in records):
            return 0
        if not state.logged.digests:
            state.take(log.begin(state.backend, state.logged))  # which another process may have gone on with
            continue
        logged = log.append(state.backend, state.logged, records, note, again)
        if logged is None:  # another process planned first: behind what it planned
            state.refresh()
            continue
        state.take(logged)
        _drop_left_over(state, range(len(table.shards), len(state.table.shards)))
        _publish(state)
        return logged.manifest.segments[-1].prompts


def mend_row_files(state: StoreState) -> None:
    """Write what zarr readers see, where a process that planned was stopped before it had. If one may write."""
    if state.logged.digests and not row_files.is_current(state.backend, state.logged):
        with suppress(UserError):
            _publish(state)


def write_shard(state: StoreState, index: int, data: Mapping[str, np.ndarray]) -> None:
    """Write those arrays of a shard that are not there. Raises ValueError for arrays that are not the shard's."""
    shard = state.shard(index)
    if set(data) != set(state.arrays):
        raise ValueError(f"shard {index}: arrays {sorted(data)} where {sorted(state.arrays)} belong")
    for name, array in state.arrays.items():
        check_shape(array.spec, data[name], array.spec.rows_in(shard))
    for name, array in state.arrays.items():
        key = shard_key(array.spec, index)
        if not state.backend.size(key) or not fitting(array, [index]):
            binding = array.binding and array.binding(index)
            parts = encode(array.spec, array.compression, by_layer(array.spec, data[name]), binding)
            state.backend.write(key, parts)


def estimate_addition(state: StoreState, records: Sequence[PromptRecord]) -> Estimate:
    """What adding those prompts that are not planned, and writing all that are not complete, will take."""
    state.refresh()
    _, fresh, shards = state.table.new_rows(records)
    pending = state.pending([record.hash for record in records])
    return estimate(
        state.manifest.layout,
        state.manifest.encoding,
        n_prompts=len(fresh) + sum(shard.n_rows for shard in pending),
        n_tokens_total=sum(record.n_tokens for record in fresh) + sum(sum(shard.n_tokens) for shard in pending),
        geometry=state.manifest.geometry,
        shards=shards + len(pending),
        ratios=compression_ratios(state),
    )


def compression_ratios(state: StoreState) -> dict[str, float]:
    """Stored bytes per byte of what the complete shards hold, by array; empty where nothing is complete."""
    complete = sorted(state.complete_shards())
    shards = [state.shard(index) for index in complete]
    ratios = {}
    for name, array in state.arrays.items():
        rows = sum(array.spec.rows_in(shard) for shard in shards)
        sizes = shard_sizes(array)
        found = [sizes.get(index) for index in complete]
        if rows and None not in found:
            stored = sum(size - array.spec.index_bytes - BINDING_BYTES for size in found if size is not None)
            ratios[name] = stored / (rows * row_bytes(state.manifest.layout, state.manifest.encoding, name))
    return ratios


def stored_bytes(state: StoreState) -> int:
    """Bytes that the files of all arrays take."""
    return sum(size or 0 for array in state.arrays.values() for size in shard_sizes(array).values())


def check_space(backend: Backend, bound: Estimate) -> None:
    """Raises UserError if the disk cannot hold what is planned."""
    free = backend.free_bytes()
    if free is not None and free < bound.likely_bytes:
        raise UserError(
            f"store {backend.url} needs about {bound.likely_bytes / 1e9:.2f} GB more and its disk has "
            f"{free / 1e9:.2f} GB free; free some space, or choose another place"
        )


def _publish(state: StoreState) -> None:
    """Write what zarr readers see."""
    state.take(row_files.publish(state.backend, state.logged))


def _drop_left_over(state: StoreState, shards: range) -> None:
    """Delete files that stand where these shards, planned just now, belong and are not of their prompts."""
    for array in state.arrays.values():
        there = [shard for shard in shard_sizes(array) if shard in shards]
        for shard in set(there) - fitting(array, there):
            state.backend.delete(shard_key(array.spec, shard))
