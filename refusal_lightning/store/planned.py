"""The plan on disk: coordinate arrays for every zarr reader, and one compact copy of them from which to mend them."""

from __future__ import annotations

import json
from collections.abc import Sequence

from numcodecs import zstd

from refusal_lightning.store import coordinates
from refusal_lightning.store.errors import StoreError
from refusal_lightning.store.geometry import array_specs
from refusal_lightning.store.layout import PromptRecord
from refusal_lightning.store.manifest import ATTRIBUTE, Manifest, records_digest
from refusal_lightning.store.metadata import array_json
from refusal_lightning.store.objects import Objects
from refusal_lightning.store.plan import Plan

COPY_KEY = "prompt/records.json.zst"
"""Inside an array's folder, where no zarr reader looks for nodes."""


def write_plan(objects: Objects, manifest: Manifest, plan: Plan) -> None:
    """Write everything that follows from a plan but the manifest itself; readers of the manifest before see no change.

    The array `prompt` comes last, with a copy of the manifest among its attributes.
    """
    rows = [None if r is None else [r.hash, r.n_tokens, r.label, r.split, r.dataset] for r in plan.records]
    objects.write(COPY_KEY, [[zstd.compress(json.dumps(rows, ensure_ascii=False).encode(), 3)]])
    for name, data in metadata(manifest, plan).items():
        objects.write(f"{name}/zarr.json", [[data]])
    columns = coordinates.prompt_columns(plan.records)
    hashes = columns.pop("prompt")
    if manifest.layout.ragged:
        columns["token_start"] = plan.token_starts
    for name, values in columns.items():
        coordinates.write_array(objects, name, values, ("prompt",))
    coordinates.write_array(objects, "prompt", hashes, ("prompt",), {ATTRIBUTE: manifest.to_json()})


def write_fixed(objects: Objects, manifest: Manifest) -> None:
    """Write the coordinates that no plan changes."""
    for name, (values, dims) in coordinates.fixed_columns(manifest.layout, manifest.position_tokens).items():
        coordinates.write_array(objects, name, values, dims)


def metadata(manifest: Manifest, plan: Plan) -> dict[str, bytes]:
    """zarr.json of each array of data."""
    files = {}
    for name, spec in array_specs(manifest.layout, manifest.encoding, manifest.geometry).items():
        rows = plan.token_rows if spec.dims[0] == "token" else len(plan.records)
        files[name] = array_json(spec, manifest.encoding.compression, rows)
    return files


def read_plan(objects: Objects, manifest: Manifest) -> Plan:
    """The planned rows from the coordinate arrays. Raises StoreError if they are not what the manifest promises."""
    if not manifest.segments:
        return Plan(manifest.geometry, [])
    columns = [coordinates.read_array(objects, name).tolist() for name in coordinates.PER_PROMPT]
    rows = [PromptRecord(*row) if row[0] else None for row in zip(*columns, strict=False)]
    return checked_plan(objects, manifest, rows)


def plan_from_copy(objects: Objects, manifest: Manifest) -> Plan:
    """The planned rows from the compact copy. Raises StoreError if it does not hold what the manifest promises."""
    try:
        rows = json.loads(zstd.decompress(objects.read(COPY_KEY) or b""))
        records = [None if row is None else PromptRecord(*row) for row in rows]
    except Exception as error:
        raise StoreError(f"store {objects.url}: {COPY_KEY}, the copy of the prompts, is damaged too") from error
    return checked_plan(objects, manifest, records)


def checked_plan(objects: Objects, manifest: Manifest, rows: Sequence[PromptRecord | None]) -> Plan:
    """Rows up to the last that the manifest promises; there may be more, of a plan that was not finished."""
    size = manifest.geometry.shard_prompts
    end = 0
    for segment in manifest.segments:
        start, stop = segment.first_shard * size, (segment.first_shard + segment.shards) * size
        held = [record for record in rows[start:stop] if record]
        if len(held) < segment.prompts or records_digest(held) != segment.digest:
            last = segment.first_shard + segment.shards - 1
            raise StoreError(
                f"store {objects.url}: the coordinate arrays ({', '.join(coordinates.PER_PROMPT)}) do not hold what "
                f"the manifest promises for shards {segment.first_shard} to {last}; `store repair` mends them"
            )
        end = start + max(i for i, record in enumerate(rows[start:stop]) if record) + 1
    return Plan(manifest.geometry, rows[:end])
