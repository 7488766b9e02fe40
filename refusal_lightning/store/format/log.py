"""The log: what a store is and which prompts it plans, one object per addition, each put where none is yet.

Entry 0 says what the store is; every further one which prompts an addition planned, in which rows, and the digest of
the entry before it. A process that finds another's entry where its own should stand has changed nothing: it reads that
entry and plans behind it. So there is no lock, and none that a dead process leaves behind.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from numcodecs import zstd

from refusal_lightning.errors import UserError
from refusal_lightning.store.backend.protocol import Backend
from refusal_lightning.store.errors import StoreError
from refusal_lightning.store.format.layout import PromptRecord
from refusal_lightning.store.format.manifest import Manifest, Segment, canonical, record_rows, require_known_format
from refusal_lightning.store.format.rows import RowTable

FOLDER = "prompt/plan"
"""Inside an array's folder, where no zarr reader looks for nodes."""
_END = ".json.zst"
_TRIES, _PAUSE = 5, 0.2
"""An entry that does not hold together is read again: where files cannot be linked it may be being written."""


@dataclass(frozen=True)
class Logged:
    """A store as it was planned."""

    manifest: Manifest
    table: RowTable
    digests: tuple[str, ...] = ()
    """Of the entries that were read; none for a store of format 1."""


def key(number: int) -> str:
    """The object that holds an entry."""
    return f"{FOLDER}/{number:06d}{_END}"


def create(backend: Backend, manifest: Manifest) -> None:
    """Begin a log with a store of no prompts, unless there is one."""
    put(backend, 0, head_entry(manifest)[0])


def put(backend: Backend, number: int, data: bytes) -> bool:
    """Put an entry where none is; False if another stands there.

    A reply may get lost, so that what stands there already may well be one's own. Raises UserError where two processes
    could both put an entry.
    """
    created = backend.create(key(number), data)
    if created and number == 0 and backend.create(key(number), data):
        backend.delete(key(number))
        raise UserError(
            f"store {backend.url}: an object was created twice, so this endpoint does not obey If-None-Match: two jobs "
            "could plan the same rows. Choose an endpoint that does (AWS S3, GCS, MinIO do), or a disk"
        )
    return created or backend.read(key(number)) == data


def append(
    backend: Backend,
    known: Logged,
    records: Sequence[PromptRecord],
    made_with: dict[str, Any],
    again: Collection[str] = (),
) -> Logged | None:
    """Plan prompts that are lacking, or planned ``again``, behind what is known; None if another process did first."""
    rows, fresh, shards = known.table.new_rows(records, again)
    if not fresh:
        return known
    segment = known.manifest.next_segment(shards, fresh, made_with)
    data, digest = entry(known, segment, rows)
    if not put(backend, len(known.digests), data):
        return None
    return extended(known, segment, rows, digest)


def begin(backend: Backend, known: Logged) -> Logged:
    """The log of a store of format 1, from its manifest and rows: the same from any process, at any time.

    One that was begun before, and stopped, is gone on with: an older version of this package may have planned since.
    Raises StoreError if there is one that planned other prompts.
    """
    old = known.manifest
    create(backend, replace(old, format=Manifest.format, segments=(), unbound_shards=old.shards))
    logged = read(backend)
    assert logged is not None
    head = logged.manifest
    shared = min(len(head.segments), len(old.segments))
    if head.segments[:shared] != old.segments[:shared]:
        raise StoreError(
            f"store {backend.url}: its log plans other prompts than its arrays hold: an older version of this package "
            f"planned beside a newer one. Move {FOLDER} away to go on with what the arrays hold"
        )
    for segment in old.segments[shared:]:
        stop = min((segment.first_shard + segment.shards) * head.geometry.shard_prompts, len(known.table.records))
        rows = trimmed(known.table.records[len(logged.table.records) : stop])
        data, digest = entry(logged, segment, rows)
        number = len(logged.digests)
        if not put(backend, number, data):
            raise StoreError(f"store {backend.url}: {key(number)} is not what this store planned; see `store verify`")
        logged = extended(logged, segment, rows, digest)
    return logged


def read(backend: Backend, known: Logged | None = None) -> Logged | None:
    """The store by its log, ``known`` being what was read before; None if there is no log.

    Raises StoreError if an entry is missing or damaged, UserError for a newer format.
    """
    there = numbers(backend)
    if not there:
        return None
    done = len(known.digests) if known else 0
    count = max(done, max(there) + 1)
    lacking = set(range(count)) - there
    if lacking:
        raise _damaged(backend, min(lacking), "is missing")
    logged = known
    for number in range(done, count):
        logged = read_entry(backend, number, logged)
    return logged


def numbers(backend: Backend) -> set[int]:
    """The entries that are there.

    A listing made while entries are put may show a later one and not an earlier one, so that is asked for by name.
    """
    names = [name.removesuffix(_END) for name in backend.sizes(FOLDER) if name.endswith(_END)]
    found = {int(name) for name in names if name.isdigit()}
    passed_over = set(range(max(found, default=0))) - found
    return found | {number for number in passed_over if backend.size(key(number)) is not None}


def read_entry(backend: Backend, number: int, before: Logged | None) -> Logged:
    """The store with one further entry. Raises StoreError if it is damaged or does not follow on what is before it."""
    for attempt in range(_TRIES):
        data = backend.read(key(number))
        try:
            content, rows, digest = _decoded(data or b"")
            break
        except Exception as error:
            if attempt == _TRIES - 1:
                raise _damaged(backend, number, "is damaged") from error
            time.sleep(_PAUSE)
    if before is None:
        head = content.get("head", {})
        require_known_format(head.get("format"), backend.url)
        manifest = Manifest.from_head(head)
        return Logged(manifest, RowTable(manifest.geometry, []), (digest,))
    if content.get("previous") != before.digests[-1]:
        raise _damaged(backend, number, "does not follow on the one before it")
    return extended(before, Segment(**content["segment"]), rows, digest)


def entry(known: Logged, segment: Segment, rows: Sequence[PromptRecord | None]) -> tuple[bytes, str]:
    """(bytes, digest) of the entry that plans a segment behind what is known."""
    return _encoded({"previous": known.digests[-1], "segment": segment.to_json()}, rows)


def head_entry(manifest: Manifest) -> tuple[bytes, str]:
    """(bytes, digest) of entry 0."""
    return _encoded({"head": manifest.head})


def trimmed(rows: Sequence[PromptRecord | None]) -> list[PromptRecord | None]:
    """Rows without those behind the last prompt."""
    end = max((i + 1 for i, record in enumerate(rows) if record), default=0)
    return list(rows[:end])


def extended(known: Logged, segment: Segment, rows: Sequence[PromptRecord | None], digest: str) -> Logged:
    """The store with one further segment planned, by the entry of this digest."""
    manifest = replace(known.manifest, segments=(*known.manifest.segments, segment))
    return Logged(manifest, RowTable(manifest.geometry, [*known.table.records, *rows]), (*known.digests, digest))


def _encoded(content: Mapping[str, Any], rows: Sequence[PromptRecord | None] = ()) -> tuple[bytes, str]:
    body = canonical(content) + b"\n" + canonical(record_rows(rows))
    digest = hashlib.sha256(body).hexdigest()
    return zstd.compress(digest.encode() + b"\n" + body, 3), digest


def _decoded(data: bytes) -> tuple[dict[str, Any], list[PromptRecord | None], str]:
    digest, _, body = bytes(zstd.decompress(data)).partition(b"\n")
    if hashlib.sha256(body).hexdigest() != digest.decode():
        raise ValueError("the digest does not match")
    content, _, rows = body.partition(b"\n")
    return (
        json.loads(content),
        [None if row is None else PromptRecord(*row) for row in json.loads(rows)],
        digest.decode(),
    )


def _damaged(backend: Backend, number: int, what: str) -> StoreError:
    return StoreError(
        f"store {backend.url}: {key(number)}, which says what prompts the store holds, {what}; `store repair` restores "
        "it from the coordinate arrays"
    )
