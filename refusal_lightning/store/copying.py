"""A store copied so that its copy can be read at every moment: what is planned first, then shard after shard.

That is the order in which a store grows, so a copy cut short is a store with shards that are still to come, and to copy
again continues. A store only ever plans more, so whether two of them belong together needs no note of what was copied
when: one's plan begins with the other's, or both went their own ways and nothing is mixed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refusal_lightning.errors import UserError
from refusal_lightning.store import results
from refusal_lightning.store.backend.open import open_backend
from refusal_lightning.store.backend.protocol import Backend
from refusal_lightning.store.errors import StoreError
from refusal_lightning.store.format import log, row_files
from refusal_lightning.store.format.log import Logged
from refusal_lightning.store.format.manifest import Manifest, differences
from refusal_lightning.store.format.shard_file import shard_key
from refusal_lightning.store.opening import current, require_empty_place
from refusal_lightning.store.shards import fitting, shard_sizes, stored_arrays

_PIECE = 8 << 20
"""Bytes read and written at a time."""


@dataclass(frozen=True)
class Copied:
    """What one store's copying brought to its target."""

    url: str
    """The target."""
    shards: int
    """Files of shards."""
    bytes: int
    """Their size."""
    results: int
    """Derived results."""


def copy(source: str | Path, target: str | Path, options: Mapping[str, Any] | None = None) -> list[Copied]:
    """Copy what a store, or each store in a folder, has and its copy at the target lacks; nothing there is replaced
    but derived results by newer ones.

    A copy that has planned further by itself stays ahead. Raises UserError where both have planned, or are of another
    model: then nothing of that store was copied, and of the later ones neither. Raises StoreError for damage.
    """
    backend = open_backend(source, options)
    if current(backend) is not None:
        return [_copy_store(backend, open_backend(target, options))]
    if not backend.folders("") and not backend.sizes("") and not Path(source).is_dir():
        raise UserError(f"there is no activation store at {backend.url}")
    copied = []
    for name in sorted(backend.folders("")):
        places = [f"{str(place).rstrip('/')}/{name}" for place in (source, target)]
        one, other = (open_backend(place, options) for place in places)
        if current(one) is not None:
            copied.append(_copy_store(one, other))
    return copied


def _copy_store(source: Backend, target: Backend) -> Copied:
    here = current(source)
    if here is None:
        raise StoreError(f"the activation store {source.url} is gone")
    there = _planned_the_same(source, target, here)
    lacking = _lacking_shards(source, target, here, there)
    needed, free = sum(size for _, size in lacking), target.free_bytes()
    if free is not None and needed > free:
        raise UserError(
            f"store {target.url} lacks {needed / 1e9:.2f} GB of {source.url} and its disk has {free / 1e9:.2f} GB "
            "free; free some space, or choose another place"
        )
    for key, size in lacking:
        target.write(key, _pieces(source, key, size))
    return Copied(target.url, len(lacking), needed, _copy_results(source, target))


def _planned_the_same(source: Backend, target: Backend, here: Logged) -> Logged:
    """Let the target plan what the source does, all of it or none; the target's plan after that.

    Raises UserError if it has planned other things.
    """
    there = current(target)
    if there is not None and _goes_on_from(there, here, source.url, target.url):
        if there.digests and not row_files.is_current(target, there):  # a copy was cut short before
            row_files.publish(target, there)
        return there
    if there is None:
        require_empty_place(target, here.manifest.layout)
    if here.digests:
        for number in range(len(there.digests) if there else 0, len(here.digests)):
            if not log.put(target, number, source.read(log.key(number)) or b""):
                raise _both_planned(source.url, target.url)
    else:
        log.begin(target, here)
    there = log.read(target)
    assert there is not None
    return row_files.publish(target, there)


def _goes_on_from(there: Logged, here: Logged, source: str, target: str) -> bool:
    """Whether what is planned there begins with what is planned here; False if it is the other way round."""
    if lines := differences(_made_of(there.manifest), _made_of(here.manifest)):
        raise UserError(f"{target} is no copy of {source}: " + "; ".join(lines) + ". Choose another place")
    theirs, ours = there.manifest.segments, here.manifest.segments
    shared = min(len(theirs), len(ours))
    if theirs[:shared] != ours[:shared]:
        raise _both_planned(source, target)
    logs = min(len(there.digests), len(here.digests))
    unbound = here.manifest.shards if there.digests and not here.digests else 0
    if there.digests[:logs] != here.digests[:logs] or unbound > there.manifest.unbound_shards:
        raise UserError(  # shards say of which log they are, or nothing at all
            f"{target} and {source} plan the same, and an older version of this package planned some of it between the "
            "moments at which one and the other got a log, so nothing was copied; copy to another place"
        )
    return len(theirs) >= len(ours)


def _both_planned(source: str, target: str) -> UserError:
    return UserError(
        f"{target} and {source} have each planned prompts that the other has not, so nothing was copied: two jobs "
        "worked on copies of one store. Keep both as they are (each is whole), or delete one and run its job again"
    )


def _made_of(manifest: Manifest) -> dict[str, Any]:
    """What two stores must share; that one of them is still of format 1 is none of it."""
    return {key: value for key, value in manifest.head.items() if key not in ("format", "unbound_shards")}


def _lacking_shards(source: Backend, target: Backend, here: Logged, there: Logged) -> list[tuple[str, int]]:
    """(key, bytes) of what the source has of the planned shards and the target has not, shard after shard."""
    found = []
    theirs = stored_arrays(target, there)
    for order, (name, own) in enumerate(stored_arrays(source, here).items()):
        sizes = {shard: size for shard, size in shard_sizes(own).items() if shard < len(here.table.shards)}
        present = shard_sizes(theirs[name]).keys() & sizes.keys()
        for shard in fitting(own, sizes.keys() - fitting(theirs[name], present)):
            key = shard_key(own.spec, shard)
            size = sizes[shard] or source.size(key)
            if size:
                found.append((shard, order, key, size))
    return [(key, size) for _, _, key, size in sorted(found)]


def _pieces(source: Backend, key: str, size: int) -> Iterator[list[Any]]:
    with source.open(key) as reader:
        for start in range(0, size, _PIECE):
            stop = min(start + _PIECE, size)
            piece = reader.read(start, stop, bytearray())
            if len(piece) != stop - start:
                raise StoreError(f"store {source.url}: {key} became shorter while it was copied; copy again")
            yield [piece]


def _copy_results(source: Backend, target: Backend) -> int:
    """Copy derived results that are newer than the target's; how many."""
    count = 0
    for key in results.listed(source):
        saved = results.saved(source, key)
        if saved > results.saved(target, key) and (loaded := results.load(source, key)):
            results.save(target, key, *loaded, saved=saved)
            count += 1
    return count
