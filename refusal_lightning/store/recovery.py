"""What a damaged store planned, from whatever still tells: the log, the coordinate arrays, the group's manifest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from refusal_lightning.errors import UserError
from refusal_lightning.store.backend.protocol import Backend
from refusal_lightning.store.errors import StoreError
from refusal_lightning.store.format import coordinates, format1, log
from refusal_lightning.store.format.layout import PromptRecord
from refusal_lightning.store.format.log import Logged
from refusal_lightning.store.format.manifest import KEY, Manifest, Segment, records_digest
from refusal_lightning.store.format.rows import RowTable
from refusal_lightning.store.opening import root


@dataclass
class Recovered:
    """What was found, and what must be written for the store to say so again."""

    logged: Logged
    wrong: list[tuple[str, str]] = field(default_factory=list)
    """(key, what is wrong) of the log, or of format 1's manifest and its copies."""
    entries: dict[str, bytes] = field(default_factory=dict)
    """Entries of the log to write again."""
    useless: list[str] = field(default_factory=list)
    """Entries that follow on nothing."""


def recover(backend: Backend) -> Recovered:
    """The store as it was planned. Raises UserError if there is none, StoreError if no copy tells what it held."""
    manifest, error = root(backend)
    there = log.numbers(backend)
    if manifest is None and not there:
        return _format_1(backend, manifest, error)
    result = _by_log(backend, manifest, there)
    done = len(result.logged.manifest.segments) if result else -1
    if manifest is not None and manifest.format == 1 and len(manifest.segments) > done:
        of_old = _format_1(backend, manifest, error)  # whose log is not made, or was stopped while it was
        of_old.useless = [log.key(number) for number in sorted(there) if number > done]
        of_old.wrong += [(key, f"{key} is no part of the store's log") for key in of_old.useless]
        return of_old
    if result is None:
        raise error or UserError(
            f"store {backend.url}: {log.key(0)}, which says what the store is, is lost with its copy"
        )
    return result


def _by_log(backend: Backend, manifest: Manifest | None, there: set[int]) -> Recovered | None:
    """As much of the log as there is or can be made again; None without its first entry."""
    result = _first(backend, manifest, there)
    if result is None:
        return None
    promised = manifest.segments if manifest and manifest.head == result.logged.manifest.head else ()
    rows: list[PromptRecord | None] | None = None
    while True:
        logged, number = result.logged, len(result.logged.digests)
        trouble = f"{log.key(number)} is missing"
        if number in there:
            try:
                result.logged = log.read_entry(backend, number, logged)
                continue
            except StoreError as error:
                trouble = str(error)
        if number > len(promised) and not any(after >= number for after in there):
            return result
        rows = _rows(backend) if rows is None else rows
        again = _from_rows(logged, promised[number - 1], rows) if number <= len(promised) else None
        if again is None:  # none of the copies tells: the prompts of this and of what follows are to be cached again
            result.useless = [log.key(after) for after in sorted(there) if after >= number]
            result.wrong.append((log.key(number), f"{trouble}; they do not hold it, so its prompts are given up"))
            return result
        result.wrong.append((log.key(number), trouble))
        result.entries[log.key(number)], result.logged = again


def _first(backend: Backend, manifest: Manifest | None, there: set[int]) -> Recovered | None:
    try:
        return Recovered(log.read_entry(backend, 0, None)) if 0 in there else _first_again(manifest)
    except StoreError:
        return _first_again(manifest)


def _first_again(manifest: Manifest | None) -> Recovered | None:
    if manifest is None or manifest.format == 1:
        return None
    head = replace(manifest, segments=())
    data, digest = log.head_entry(head)
    again = Recovered(Logged(head, RowTable(head.geometry, []), (digest,)))
    again.entries[log.key(0)] = data
    again.wrong.append((log.key(0), f"{log.key(0)} is damaged or missing; the group's {KEY} holds what it said"))
    return again


def _from_rows(known: Logged, segment: Segment, rows: list[PromptRecord | None]) -> tuple[bytes, Logged] | None:
    """The entry that planned a segment, and the store with it, from the rows of the coordinate arrays."""
    stop = (segment.first_shard + segment.shards) * known.manifest.geometry.shard_prompts
    own = log.trimmed(rows[len(known.table.records) : stop])
    held = [record for record in own if record]
    if records_digest(held) != segment.digest:
        return None
    data, digest = log.entry(known, segment, own)
    return data, log.extended(known, segment, own, digest)


def _rows(backend: Backend) -> list[PromptRecord | None]:
    try:
        return coordinates.read_records(backend)
    except StoreError:
        return []


def _format_1(backend: Backend, manifest: Manifest | None, error: UserError | None) -> Recovered:
    """A store of format 1 from its arrays and copies, all of which are looked at."""
    copy = format1.manifest_copy(backend)
    wrong: list[tuple[str, str]] = []
    if manifest is None:
        if copy is None:
            what = error or "there is no activation store"
            raise UserError(f"{backend.url}: {what}; and there is no copy of a manifest to restore it from")
        manifest = copy
        wrong.append((KEY, str(error) if error else f"{KEY} is missing"))
    elif copy != manifest:
        wrong.append((format1.MANIFEST_COPY, f"{format1.MANIFEST_COPY} holds no copy of the manifest"))
    found: list[Logged] = []
    sources: list[tuple[str, Callable[[Backend, Manifest], Logged]]]
    sources = [("prompt", format1.logged), (format1.RECORDS_COPY, format1.from_copy)]
    for key, read in sources:
        try:
            found.append(read(backend, manifest))
        except StoreError as trouble:
            wrong.append((key, str(trouble)))
    if not found:
        raise StoreError("; and ".join(what for _, what in wrong[-2:]))
    return Recovered(found[0], wrong)
