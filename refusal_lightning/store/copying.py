"""A store copied so that its copy can be read at every moment: what is planned first, then shard after shard.

That is the order in which a store grows, so a copy cut short is a store with shards that are still to come, and to copy
again continues. A store only ever plans more, so whether two of them belong together needs no note of what was copied
when: one's plan begins with the other's, or both went their own ways and nothing is mixed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from refusal_lightning.errors import UserError
from refusal_lightning.store import results
from refusal_lightning.store.activation_store import refuse_foreign
from refusal_lightning.store.errors import StoreError
from refusal_lightning.store.lock import planning
from refusal_lightning.store.manifest import Manifest, differences, read_manifest, write_manifest
from refusal_lightning.store.objects import Objects, open_objects
from refusal_lightning.store.plan import Plan
from refusal_lightning.store.planned import read_plan, write_fixed, write_plan
from refusal_lightning.store.shard_file import shard_number

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
    objects = open_objects(source, options)
    if read_manifest(objects) is not None:
        return [_copy_store(objects, open_objects(target, options))]
    if not objects.folders("") and not objects.sizes("") and not Path(source).is_dir():
        raise UserError(f"there is no activation store at {objects.url}")
    copied = []
    for name in sorted(objects.folders("")):
        places = [f"{str(place).rstrip('/')}/{name}" for place in (source, target)]
        one, other = (open_objects(place, options) for place in places)
        if read_manifest(one) is not None:
            copied.append(_copy_store(one, other))
    return copied


def _copy_store(source: Objects, target: Objects) -> Copied:
    manifest = read_manifest(source)
    if manifest is None:
        raise StoreError(f"the activation store {source.url} is gone")
    plan = read_plan(source, manifest)
    _plan_the_same(source.url, target, manifest, plan)
    lacking = _lacking_shards(source, target, manifest, len(plan.shards))
    needed, free = sum(size for _, size in lacking), target.free_bytes()
    if free is not None and needed > free:
        raise UserError(
            f"store {target.url} lacks {needed / 1e9:.2f} GB of {source.url} and its disk has {free / 1e9:.2f} GB "
            "free; free some space, or choose another place"
        )
    for key, size in lacking:
        target.write(key, _pieces(source, key, size))
    return Copied(target.url, len(lacking), needed, _copy_results(source, target))


def _plan_the_same(source: str, target: Objects, manifest: Manifest, plan: Plan) -> None:
    """Let the target plan what the source does, all of it or none. Raises UserError if it has planned other things."""
    if _goes_on_from(read_manifest(target), manifest, source, target.url):
        return
    with planning(target) as check:
        there = read_manifest(target)
        if _goes_on_from(there, manifest, source, target.url):
            return
        if there is None:
            refuse_foreign(target, manifest.layout)
            write_fixed(target, manifest)
        write_plan(target, manifest, plan)
        check()
        write_manifest(target, manifest)


def _goes_on_from(there: Manifest | None, here: Manifest, source: str, target: str) -> bool:
    """Whether what is planned there begins with what is planned here; False if it is the other way round."""
    if there is None:
        return False
    if lines := differences(_made_of(there), _made_of(here)):
        raise UserError(f"{target} is no copy of {source}: " + "; ".join(lines) + ". Choose another place")
    shared = min(len(there.segments), len(here.segments))
    if there.segments[:shared] != here.segments[:shared]:
        raise UserError(
            f"{target} and {source} have each planned prompts that the other has not, so nothing was copied: two jobs "
            "worked on copies of one store. Keep both as they are (each is whole), or delete one and run its job again"
        )
    return len(there.segments) >= len(here.segments)


def _made_of(manifest: Manifest) -> dict[str, Any]:
    return {k: v for k, v in replace(manifest, segments=()).to_json().items() if k not in ("segments", "digest")}


def _lacking_shards(source: Objects, target: Objects, manifest: Manifest, planned: int) -> list[tuple[str, int]]:
    """(key, bytes) of what the source has of the planned shards and the target has not, shard after shard."""
    found = []
    for place, name in enumerate(manifest.layout.array_names):
        there = target.sizes(name)
        for file, size in source.sizes(name).items():
            number = shard_number(file)
            if number is None or number >= planned or there.get(file, 0) != 0:
                continue
            if size is None:
                size = source.size(f"{name}/{file}")
            if size:
                found.append((number, place, f"{name}/{file}", size))
    return [(key, size) for _, _, key, size in sorted(found)]


def _pieces(source: Objects, key: str, size: int) -> Iterator[list[Any]]:
    with source.open(key) as reader:
        for start in range(0, size, _PIECE):
            stop = min(start + _PIECE, size)
            piece = reader.read(start, stop, bytearray())
            if len(piece) != stop - start:
                raise StoreError(f"store {source.url}: {key} became shorter while it was copied; copy again")
            yield [piece]


def _copy_results(source: Objects, target: Objects) -> int:
    """Copy derived results that are newer than the target's; how many."""
    count = 0
    for key in results.listed(source):
        saved = results.saved(source, key)
        if saved > results.saved(target, key) and (loaded := results.load(source, key)):
            results.save(target, key, *loaded, saved=saved)
            count += 1
    return count
