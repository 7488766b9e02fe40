"""What there is in a store, whether all of it is whole, and how to drop what is not: info, verify, repair."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refusal_lightning.store import results
from refusal_lightning.store.activation_store import ActivationStore
from refusal_lightning.store.backend.open import open_backend
from refusal_lightning.store.backend.protocol import Backend
from refusal_lightning.store.backend.threads import map_unordered, thread_count
from refusal_lightning.store.errors import StoreError
from refusal_lightning.store.format import format1, log, row_files
from refusal_lightning.store.format.log import Logged
from refusal_lightning.store.format.shard_file import Scratch, shard_key, shard_number
from refusal_lightning.store.reading import StoredArray, open_shard
from refusal_lightning.store.recovery import Recovered, recover
from refusal_lightning.store.shards import stored_arrays


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
    unplanned: bool = False
    """There, and planned by nobody."""


def info(url: str | Path, storage_options: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What is in a store, as plain JSON: manifest, prompts by dataset, split and label, completeness and sizes.

    Reads no data. Raises UserError if there is no store.
    """
    backend = open_backend(url, storage_options)
    store = ActivationStore.open(url, storage_options)
    manifest, prompts = store.manifest, store.prompts
    kinds = Counter(zip(prompts.dataset, prompts.split, prompts.label, strict=True))
    done = prompts.complete
    whole = Counter(zip(prompts.dataset[done], prompts.split[done], prompts.label[done], strict=True))
    arrays = {}
    for name in store.layout.array_names:
        sizes = backend.sizes(name)
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
    backend = open_backend(url, storage_options)
    return _problems(backend, recover(backend), progress)


def repair(url: str | Path, storage_options: Mapping[str, Any] | None = None) -> list[Problem]:
    """Mend what copies can mend and drop what is damaged, so that `cache` computes just that again.

    A job may be writing to the store meanwhile. Returns what was mended or dropped; missing shards are not among it.
    Raises UserError or StoreError if nothing tells any more what the store held.
    """
    backend = open_backend(url, storage_options)
    recovered = recover(backend)
    problems = [problem for problem in _problems(backend, recovered) if not problem.missing]
    logged = recovered.logged
    for key, data in recovered.entries.items():
        backend.write(key, [[data]])
    for key in recovered.useless:
        backend.delete(key)
    to_mend = any(problem.shard is None for problem in problems)
    if logged.digests:
        logged = log.read(backend, logged) or logged  # what was planned while this looked at the shards
    elif to_mend:
        logged = log.begin(backend, logged)
    for problem in problems:
        if problem.shard is not None:
            if _is_still_wrong(backend, logged, problem):
                backend.delete(problem.key)
        elif problem.key in dict(results.problems(backend)) and problem.key != results.GROUP:
            backend.delete_folder(problem.key)
    if to_mend:
        results.write_group(backend)
        row_files.publish(backend, logged)
        for key in format1.LEFT:
            backend.delete(key)
    backend.remove_stale_partials()
    return problems


def _is_still_wrong(backend: Backend, logged: Logged, problem: Problem) -> bool:
    """Whether a shard is as it was found: looking at all takes long, and a job may have put the right one there."""
    assert problem.array is not None and problem.shard is not None
    if problem.shard >= len(logged.table.shards):
        return True
    try:
        _check(stored_arrays(backend, logged)[problem.array], logged, problem.shard)
    except StoreError:
        return not problem.unplanned  # planned meanwhile: whoever did looks at what is left there
    return False


def _problems(
    backend: Backend, recovered: Recovered, progress: Callable[[int, int], None] | None = None
) -> list[Problem]:
    logged = recovered.logged
    found = dict(recovered.wrong)
    for key, what in (*row_files.problems(backend, logged), *results.problems(backend)):
        found.setdefault(key, what)
    problems = [Problem(what, key) for key, what in found.items()]
    return problems + _data_problems(backend, logged, progress)


def _data_problems(backend: Backend, logged: Logged, progress: Callable[[int, int], None] | None) -> list[Problem]:
    problems: list[Problem] = []
    shards = logged.table.shards
    needed = set((logged.table.rows // logged.manifest.geometry.shard_prompts).tolist())
    tasks: list[tuple[StoredArray, int]] = []
    for name, array in stored_arrays(backend, logged).items():
        there = {number: file for file in backend.sizes(name) if (number := shard_number(file)) is not None}
        for number, file in there.items():
            if number >= len(shards):
                what = f"{name}/{file} is of no planned shard"
                problems.append(Problem(what, f"{name}/{file}", name, number, unplanned=True))
        for shard in shards:
            if shard.index in there:
                tasks.append((array, shard.index))
            elif shard.index in needed:
                key = shard_key(array.spec, shard.index)
                what = f"shard {shard.index} of {name} is not there (yet); `cache` computes it"
                problems.append(Problem(what, key, name, shard.index, missing=True))
    done = 0

    def check(task: tuple[StoredArray, int], _: None) -> None:
        nonlocal done
        array, index = task
        try:
            _check(array, logged, index)
        except StoreError as error:
            problems.append(Problem(str(error), shard_key(array.spec, index), array.spec.name, index))
        done += 1
        if progress:
            progress(done, len(tasks))

    map_unordered(check, tasks, lambda: None, thread_count(sum(array.spec.chunk_bytes for array, _ in tasks) * 8))
    return sorted(problems, key=lambda problem: problem.key)


def _check(array: StoredArray, logged: Logged, index: int) -> None:
    shard = logged.table.shards[index]
    check_shard(array, index, array.spec.rows_in(shard))


def check_shard(array: StoredArray, shard: int, rows: int) -> None:
    """Read and check every chunk of one shard of one array. Raises StoreError for the first that is damaged."""
    scratch = Scratch(array.spec)
    with open_shard(array, shard) as reader:
        for layer in range(array.spec.n_layers):
            for row_chunk in range(-(-rows // array.spec.chunk_rows)):
                reader.chunk(row_chunk, layer, scratch)
