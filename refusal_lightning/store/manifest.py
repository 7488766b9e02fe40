"""The manifest: what made a store, how it is laid out and which prompts it plans; kept in the group's attributes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from refusal_lightning.errors import UserError
from refusal_lightning.store.geometry import Geometry
from refusal_lightning.store.layout import Encoding, Layout, PromptRecord
from refusal_lightning.store.objects import Objects

FORMAT = 1
"""Version of the format that this package writes; a store of a newer one is refused."""
KEY = "zarr.json"
ATTRIBUTE = "activation_store"
COPY_KEY = "prompt/zarr.json"
"""Where a copy of the manifest is kept, for `repair`."""


@dataclass(frozen=True)
class Segment:
    """The shards that one ``add_prompts`` planned."""

    first_shard: int
    shards: int
    prompts: int
    digest: str
    """sha256 over the prompts' records."""
    made_with: dict[str, Any] = field(default_factory=dict)
    """For people: whatever the planner noted (package versions, datasets); never compared."""

    def to_json(self) -> dict[str, Any]:
        """As the manifest holds it."""
        return dict(self.__dict__)


@dataclass(frozen=True)
class Manifest:
    """Everything that readers and writers of a store must agree on."""

    identity: dict[str, Any]
    """What made the activations: any JSON, compared field by field."""
    layout: Layout
    encoding: Encoding
    geometry: Geometry
    segments: tuple[Segment, ...] = ()
    position_tokens: tuple[str, ...] | None = None
    """Text of the token at each position, a coordinate for readers."""

    @property
    def shards(self) -> int:
        """Shards planned so far."""
        return self.segments[-1].first_shard + self.segments[-1].shards if self.segments else 0

    def with_segment(self, shards: int, records: Sequence[PromptRecord], made_with: dict[str, Any]) -> Manifest:
        """With the shards of further prompts planned behind the present ones."""
        segment = Segment(self.shards, shards, len(records), records_digest(records), made_with)
        return replace(self, segments=(*self.segments, segment))

    def to_json(self) -> dict[str, Any]:
        """With its own digest, which ``from_json`` checks."""
        content = {
            "format": FORMAT,
            "identity": self.identity,
            "layout": self.layout.to_json(),
            "encoding": dict(self.encoding.__dict__),
            "geometry": self.geometry.to_json(),
            "position_tokens": None if self.position_tokens is None else list(self.position_tokens),
            "segments": [segment.to_json() for segment in self.segments],
        }
        return {**content, "digest": digest_of(content)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any], url: str) -> Manifest:
        """Raises UserError for another format version or if the digest does not match."""
        version = value.get("format")
        if not isinstance(version, int) or version > FORMAT:
            raise UserError(
                f"store {url} has format version {version}, and this version of refusal_lightning reads up to "
                f"{FORMAT}: update refusal_lightning"
            )
        content = {key: item for key, item in value.items() if key != "digest"}
        if digest_of(content) != value.get("digest"):
            raise UserError(
                f"store {url}: the manifest in {KEY} does not match its own digest: it was edited by hand or is "
                f"damaged. `store repair {url}` restores the manifest from the copy that the store keeps"
            )
        return cls(
            identity=value["identity"],
            layout=Layout.from_json(value["layout"]),
            encoding=Encoding(**value["encoding"]),
            geometry=Geometry(**value["geometry"]),
            segments=tuple(Segment(**segment) for segment in value["segments"]),
            position_tokens=None if value["position_tokens"] is None else tuple(value["position_tokens"]),
        )


def read_manifest(objects: Objects) -> Manifest | None:
    """The manifest of a store, None where there is no store. Raises UserError for what is there and is no store."""
    data = objects.read(KEY)
    if data is None:
        return None
    try:
        node = json.loads(data)
        content = node["attributes"][ATTRIBUTE]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{objects.url} is no activation store: its {KEY} does not hold the attribute {ATTRIBUTE!r}"
        ) from error
    return Manifest.from_json(content, objects.url)


def group_json(manifest: Manifest) -> bytes:
    """The zarr group's metadata with the manifest among its attributes."""
    attributes = {"coordinates": "n_tokens label split dataset token", ATTRIBUTE: manifest.to_json()}
    if manifest.layout.ragged:
        attributes["coordinates"] = "n_tokens label split dataset token_start"
    node = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    return json.dumps(node, indent=2, ensure_ascii=False).encode()


def from_copy(objects: Objects) -> Manifest | None:
    """The copy of the manifest in the attributes of the array `prompt`; None if there is none that holds together."""
    try:
        return Manifest.from_json(json.loads(objects.read(COPY_KEY) or b"")["attributes"][ATTRIBUTE], objects.url)
    except (UserError, ValueError, KeyError, TypeError):
        return None


def write_manifest(objects: Objects, manifest: Manifest) -> None:
    """Replace the manifest, atomically."""
    objects.write(KEY, [[group_json(manifest)]])


def digest_of(content: Any) -> str:
    """sha256 of canonical JSON."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def records_digest(records: Sequence[PromptRecord]) -> str:
    """sha256 over hashes, lengths, labels, splits and datasets, in order."""
    return digest_of([[r.hash, r.n_tokens, r.label, r.split, r.dataset] for r in records])


def plain_json(identity: Mapping[str, Any], url: str) -> dict[str, Any]:
    """An identity as JSON gives it back (tuples become lists). Raises UserError for what JSON cannot hold."""
    try:
        result: dict[str, Any] = json.loads(json.dumps(dict(identity), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise UserError(f"store {url}: the identity is not JSON: {error}") from error
    return result


def refuse_other(manifest: Manifest, identity: Mapping[str, Any], layout: Layout, url: str) -> None:
    """Raises UserError with one line per field in which a store differs from what is asked of it."""
    stored = {**manifest.identity, "layout": manifest.layout.to_json()}
    asked = {**identity, "layout": layout.to_json()}
    lines = differences(stored, asked)
    if lines:
        raise UserError(
            f"store {url} was made by something else: " + "; ".join(lines) + ". Choose another place for the store, "
            "or the settings that made it"
        )


def differences(stored: Any, asked: Any, name: str = "") -> list[str]:
    """`field: stored value, here value` for every field, dotted, in which two JSON values differ."""
    if isinstance(stored, dict) and isinstance(asked, dict):
        lines: list[str] = []
        for key in [*stored, *(k for k in asked if k not in stored)]:
            dotted = f"{name}.{key}" if name else str(key)
            if key not in stored or key not in asked:
                lines.append(f"{dotted}: {_shown(stored, key)} in the store, {_shown(asked, key)} here")
            else:
                lines += differences(stored[key], asked[key], dotted)
        return lines
    return [] if stored == asked else [f"{name}: {_short(stored)} in the store, {_short(asked)} here"]


def _shown(values: dict[str, Any], key: str) -> str:
    return _short(values[key]) if key in values else "absent"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text)} characters, sha256 {digest_of(value)[:12]})"
