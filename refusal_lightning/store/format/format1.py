"""Stores of format 1, which have no log: manifest and coordinate arrays say what is planned, shards say nothing.

They are read as they are. The first addition, or `store repair`, gives them a log (``log.begin``).
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from numcodecs import zstd

from refusal_lightning.errors import UserError
from refusal_lightning.store.backend.protocol import Backend
from refusal_lightning.store.errors import StoreError
from refusal_lightning.store.format import coordinates
from refusal_lightning.store.format.layout import PromptRecord
from refusal_lightning.store.format.log import Logged
from refusal_lightning.store.format.manifest import Manifest, read_manifest, records_digest
from refusal_lightning.store.format.rows import RowTable

MANIFEST_COPY = "prompt/zarr.json"
RECORDS_COPY = "prompt/records.json.zst"
LEFT = (RECORDS_COPY, "prompt/plan.lock")
"""What format 2 has no use for."""


def logged(backend: Backend, manifest: Manifest) -> Logged:
    """The rows from the coordinate arrays. Raises StoreError if they do not hold what the manifest promises."""
    rows = coordinates.read_records(backend) if manifest.segments else []
    return Logged(manifest, checked_table(backend, manifest, rows))


def from_copy(backend: Backend, manifest: Manifest) -> Logged:
    """The rows from the compact copy. Raises StoreError if it does not hold what the manifest promises."""
    try:
        rows = json.loads(zstd.decompress(backend.read(RECORDS_COPY) or b""))
        records = [None if row is None else PromptRecord(*row) for row in rows]
    except Exception as error:
        raise StoreError(f"store {backend.url}: {RECORDS_COPY}, the copy of the prompts, is damaged") from error
    return Logged(manifest, checked_table(backend, manifest, records))


def manifest_copy(backend: Backend) -> Manifest | None:
    """The copy of the manifest in the attributes of the array `prompt`; None if there is none that holds together."""
    try:
        return read_manifest(backend, MANIFEST_COPY)
    except UserError:
        return None


def checked_table(backend: Backend, manifest: Manifest, rows: Sequence[PromptRecord | None]) -> RowTable:
    """Rows up to the last that the manifest promises; there may be more, of an addition that was not finished."""
    size = manifest.geometry.shard_prompts
    end = 0
    for segment in manifest.segments:
        start, stop = segment.first_shard * size, (segment.first_shard + segment.shards) * size
        held = [record for record in rows[start:stop] if record]
        if len(held) < segment.prompts or records_digest(held) != segment.digest:
            last = segment.first_shard + segment.shards - 1
            raise StoreError(
                f"store {backend.url}: the coordinate arrays ({', '.join(coordinates.PER_PROMPT)}) do not hold what "
                f"the manifest promises for shards {segment.first_shard} to {last}; `store repair` mends them"
            )
        end = start + max(i for i, record in enumerate(rows[start:stop]) if record) + 1
    return RowTable(manifest.geometry, rows[:end])
