"""Which shards of a store are there, and are of the prompts that are planned for them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable

from refusal_lightning.store.backend.protocol import Backend
from refusal_lightning.store.backend.threads import MOST, map_unordered
from refusal_lightning.store.format.chunking import ArraySpec, array_specs
from refusal_lightning.store.format.log import Logged
from refusal_lightning.store.format.shard_file import Binding, fits, shard_key, shard_number
from refusal_lightning.store.reading import StoredArray

_WORTH_THREADS = 32
"""Fewer files than this are looked at sooner than threads are started."""


def stored_arrays(backend: Backend, logged: Logged) -> dict[str, StoredArray]:
    """Every array of data, to be read; the shards of a store with a log are bound to the log."""
    manifest = logged.manifest
    specs = array_specs(manifest.layout, manifest.encoding, manifest.geometry)
    bound = bool(logged.digests)
    return {
        name: StoredArray(backend, spec, manifest.encoding.compression, bindings(logged, spec) if bound else None)
        for name, spec in specs.items()
    }


def bindings(logged: Logged, spec: ArraySpec) -> Callable[[int], Binding]:
    """What each shard of an array is made for: this store's identity, layout and prompts, in this order."""

    def binding(index: int) -> Binding:
        shard = logged.table.shards[index]
        made_for = [logged.manifest.key, spec.name, str(index), *shard.hashes, *map(str, shard.n_tokens)]
        digest = hashlib.sha256("\n".join(made_for).encode()).digest()
        return Binding(digest, needed=index >= logged.manifest.unbound_shards)

    return binding


def shard_sizes(array: StoredArray) -> dict[int, int | None]:
    """The shards of an array that are there, with their bytes; empty files, as a power loss leaves them, are not."""
    sizes = array.backend.sizes(array.spec.name)
    return {n: size for file, size in sizes.items() if size != 0 and (n := shard_number(file)) is not None}


def fitting(array: StoredArray, shards: Collection[int]) -> set[int]:
    """Those of the shards that are there and of the prompts planned for them."""
    binding = array.binding
    if binding is None:
        return set(shards)
    found: set[int] = set()

    def look(shard: int, _: None) -> None:
        try:
            with array.backend.open(shard_key(array.spec, shard)) as reader:
                if fits(array.spec, reader, binding(shard)):
                    found.add(shard)
        except FileNotFoundError:
            pass

    map_unordered(look, sorted(shards), lambda: None, MOST if len(shards) >= _WORTH_THREADS else 1)
    return found


def complete_shards(arrays: Iterable[StoredArray], planned: int, known: set[int]) -> set[int]:
    """Shards of which every array is there, and theirs; those known to be are not looked at again, only for."""
    complete = set(range(planned))
    for array in arrays:
        there = complete & set(shard_sizes(array))
        complete = (there & known) | fitting(array, there - known)
    return complete
