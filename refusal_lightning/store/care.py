"""What there is in a store, whether all of it is whole, and how to drop what is not: info, verify, repair."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from refusal_lightning.errors import UserError
from refusal_lightning.store import coordinates, results
from refusal_lightning.store.activation_store import ActivationStore
from refusal_lightning.store.errors import StoreError
from refusal_lightning.store.geometry import ArraySpec, array_specs
from refusal_lightning.store.manifest import KEY, Manifest, from_copy, read_manifest, write_manifest
from refusal_lightning.store.metadata import same_metadata
from refusal_lightning.store.objects import Objects, open_objects
from refusal_lightning.store.plan import Plan
from refusal_lightning.store.planned import metadata, plan_from_copy, read_plan, write_fixed, write_plan
from refusal_lightning.store.reading import Source, open_shard
from refusal_lightning.store.shard_file import Scratch, shard_key, shard_number
from refusal_lightning.store.workers import run_all, thread_count


@dataclass(frozen=True)
class Problem:
    """One thing that is not as the manifest promises."""

    what: str
    """The problem in one line, with the file."""
    key: str
    """The object it is in."""
    array: str | None = None
    shard: int | None = None
    """Array and shard, for damaged or missing data."""
    missing: bool = False
    """Planned and not there: not damage, `cache` computes it."""


def info(url: str | Path, storage_options: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What is in a store, as plain JSON: manifest, prompts by dataset, split and label, completeness and sizes.

    Reads no data. Raises UserError if there is no store.
    """
    objects = open_objects(url, storage_options)
    store = ActivationStore.open(url, storage_options)
    manifest, prompts = store.manifest, store.prompts
    kinds = Counter(zip(prompts.dataset, prompts.split, prompts.label, strict=True))
    done = prompts.complete
    whole = Counter(zip(prompts.dataset[done], prompts.split[done], prompts.label[done], strict=True))
    arrays = {}
    for name in store.layout.array_names:
        sizes = objects.sizes(name)
        shards = [size for file, size in sizes.items() if shard_number(file) is not None]
        arrays[name] = {"shards": len(shards), "bytes": sum(size or 0 for size in shards)}
    planned = store.shards
    return {
        "url": store.url,
        **{key: manifest[key] for key in ("format", "identity", "layout", "encoding", "geometry")},
        "prompts": {"planned": len(prompts), "complete": int(prompts.complete.sum())},
        "shards": {"planned": len(planned), "complete": len(planned) - len(store.pending())},
        "contents": [
            {"dataset": d, "split": s, "label": label, "planned": count, "complete": whole[d, s, label]}
            for (d, s, label), count in sorted(kinds.items())
        ],
        "arrays": arrays,
        "bytes": sum(array["bytes"] for array in arrays.values()),
        "results": store.results(),
    }


def verify(
    url: str | Path,
    storage_options: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Problem]:
    """Everything that is wrong with a store: every checksum is recomputed, every promise of the manifest checked.

    ``progress(done, all)`` is called as shards are read. Raises UserError if there is no store at all.
    """
    objects = open_objects(url, storage_options)
    problems: list[Problem] = []
    manifest = _manifest(objects, problems)
    plan = _plan(objects, manifest, problems)
    for name, expected in metadata(manifest, plan).items():
        if not same_metadata(objects.read(f"{name}/zarr.json"), expected):
            problems.append(Problem(f"{name}/zarr.json is not what the manifest says", f"{name}/zarr.json"))
    problems += _fixed_problems(objects, manifest)
    problems += _data_problems(objects, manifest, plan, progress)
    for name in objects.folders(results.FOLDER):
        try:
            results.load(objects, name)
        except StoreError as error:
            problems.append(Problem(str(error), f"{results.FOLDER}/{name}"))
    return problems


def repair(url: str | Path, storage_options: Mapping[str, Any] | None = None) -> list[Problem]:
    """Mend what copies can mend and drop what is damaged, so that `cache` computes just that again.

    Do not run it while a job writes to the store. Returns what was mended or dropped; missing shards are not among
    it. Raises UserError if the manifest is lost with its copy.
    """
    objects = open_objects(url, storage_options)
    problems = [problem for problem in verify(url, storage_options) if not problem.missing]
    manifest = _manifest(objects, [])
    plan = _plan(objects, manifest, [])
    rest = []
    for problem in problems:
        if problem.shard is not None:
            objects.delete(problem.key)
        elif problem.key.startswith(f"{results.FOLDER}/"):
            objects.delete_folder(problem.key)
        else:
            rest.append(problem)
    if rest:
        write_fixed(objects, manifest)
        write_plan(objects, manifest, plan)
        write_manifest(objects, manifest)
    for name in ("", *coordinates.PER_PROMPT, *manifest.layout.array_names):
        objects.sweep(name)
    return problems


def _manifest(objects: Objects, problems: list[Problem]) -> Manifest:
    """The manifest, or its copy where it is damaged. Raises UserError if neither holds together."""
    try:
        manifest = read_manifest(objects)
        damage = f"{KEY} is missing"
    except UserError as error:
        manifest, damage = None, str(error)
    if manifest is not None:
        return manifest
    copy = from_copy(objects)
    if copy is None:
        raise UserError(f"{objects.url}: {damage}; and there is no copy of a manifest to restore it from")
    problems.append(Problem(damage, KEY))
    return copy


def _plan(objects: Objects, manifest: Manifest, problems: list[Problem]) -> Plan:
    try:
        return read_plan(objects, manifest)
    except StoreError as error:
        problems.append(Problem(str(error), "prompt"))
        return plan_from_copy(objects, manifest)


def _fixed_problems(objects: Objects, manifest: Manifest) -> Iterator[Problem]:
    for name, (values, _) in coordinates.fixed_columns(manifest.layout, manifest.position_tokens).items():
        try:
            good = np.array_equal(coordinates.read_array(objects, name), values)
        except StoreError:
            good = False
        if not good:
            yield Problem(f"coordinate array {name} is not what the manifest says", name)


def _data_problems(
    objects: Objects, manifest: Manifest, plan: Plan, progress: Callable[[int, int], None] | None
) -> list[Problem]:
    specs = array_specs(manifest.layout, manifest.encoding, manifest.geometry)
    problems: list[Problem] = []
    tasks: list[tuple[ArraySpec, int]] = []
    for name, spec in specs.items():
        there = {number: file for file in objects.sizes(name) if (number := shard_number(file)) is not None}
        for number, file in there.items():
            if number >= len(plan.shards):
                problems.append(Problem(f"{name}/{file} is of no planned shard", f"{name}/{file}", name, number))
        for shard in plan.shards:
            if shard.index in there:
                tasks.append((spec, shard.index))
            else:
                key = shard_key(spec, shard.index)
                what = f"shard {shard.index} of {name} is not there (yet); `cache` computes it"
                problems.append(Problem(what, key, name, shard.index, missing=True))
    done = 0

    def check(task: tuple[ArraySpec, int], _: None) -> None:
        nonlocal done
        spec, index = task
        shard = plan.shards[index]
        rows = sum(shard.n_tokens) if spec.dims[0] == "token" else shard.n_rows
        try:
            check_shard(Source(objects, spec, manifest.encoding.compression), index, rows)
        except StoreError as error:
            problems.append(Problem(str(error), shard_key(spec, index), spec.name, index))
        done += 1
        if progress:
            progress(done, len(tasks))

    run_all(check, tasks, lambda: None, thread_count(sum(spec.chunk_bytes for spec, _ in tasks) * 8))
    return sorted(problems, key=lambda problem: problem.key)


def check_shard(source: Source, shard: int, rows: int) -> None:
    """Read and check every chunk of one shard of one array. Raises StoreError for the first that is damaged."""
    scratch = Scratch(source.spec)
    with open_shard(source, shard) as reader:
        for group in range(source.spec.groups):
            for block in range(-(-rows // source.spec.chunk_rows)):
                reader.chunk(block, group, scratch)
