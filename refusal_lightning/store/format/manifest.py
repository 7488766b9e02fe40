"""The manifest: what made a store, how it is laid out and which prompts it plans; kept in the group's attributes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from refusal_lightning.errors import UserError
from refusal_lightning.store.backend.protocol import Backend
from refusal_lightning.store.format.chunking import Geometry
from refusal_lightning.store.format.layout import Encoding, Layout, PromptRecord

FORMAT = 2
"""Version of the format that this package writes; stores of version 1 are read, those of a newer one are not."""
KEY = "zarr.json"
ATTRIBUTE = "activation_store"


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
    unbound_shards: int = 0
    """The first so many shards were planned in format 1, whose shards do not say what prompts they are of."""
    format: int = FORMAT
    """1 or 2."""

    @property
    def shards(self) -> int:
        """Shards planned so far."""
        return self.segments[-1].first_shard + self.segments[-1].shards if self.segments else 0

    def next_segment(self, shards: int, records: Sequence[PromptRecord], made_with: dict[str, Any]) -> Segment:
        """The shards of further prompts, planned behind the present ones."""
        return Segment(self.shards, shards, len(records), records_digest(records), made_with)

    @property
    def head(self) -> dict[str, Any]:
        """All but the segments: what never changes, as JSON."""
        return {
            "format": self.format,
            "identity": self.identity,
            "layout": self.layout.to_json(),
            "encoding": dict(self.encoding.__dict__),
            "geometry": self.geometry.to_json(),
            "position_tokens": None if self.position_tokens is None else list(self.position_tokens),
            "unbound_shards": self.unbound_shards,
        }

    @cached_property
    def key(self) -> str:
        """A digest of the head: shards are bound to it."""
        return digest_of(self.head)

    def to_json(self) -> dict[str, Any]:
        """With its own digest, which ``from_json`` checks."""
        content = {**self.head, "segments": [segment.to_json() for segment in self.segments]}
        return {**content, "digest": digest_of(content)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any], url: str) -> Manifest:
        """Raises UserError for another format version or if the digest does not match."""
        require_known_format(value.get("format"), url)
        content = {key: item for key, item in value.items() if key != "digest"}
        if digest_of(content) != value.get("digest"):
            raise UserError(
                f"store {url}: the manifest in {KEY} does not match its own digest: it was edited by hand or is "
                f"damaged. `store repair {url}` restores the manifest from the copy that the store keeps"
            )
        return cls.from_head(value, tuple(Segment(**segment) for segment in value["segments"]))

    @classmethod
    def from_head(cls, head: Mapping[str, Any], segments: tuple[Segment, ...] = ()) -> Manifest:
        """The inverse of ``head``."""
        return cls(
            identity=head["identity"],
            layout=Layout.from_json(head["layout"]),
            encoding=Encoding(**head["encoding"]),
            geometry=Geometry(**head["geometry"]),
            segments=segments,
            position_tokens=None if head["position_tokens"] is None else tuple(head["position_tokens"]),
            unbound_shards=head.get("unbound_shards", 0),
            format=head["format"],
        )


def require_known_format(version: Any, url: str) -> None:
    """Raises UserError for a format version that this package does not know."""
    if not isinstance(version, int) or version > FORMAT:
        raise UserError(
            f"store {url} has format version {version}, and this version of refusal_lightning reads up to "
            f"{FORMAT}: update refusal_lightning"
        )


def read_manifest(backend: Backend, key: str = KEY) -> Manifest | None:
    """The manifest in a node's attributes, None where there is no such node.

    Raises UserError for a node that is there and has none.
    """
    data = backend.read(key)
    if data is None:
        return None
    try:
        node = json.loads(data)
        content = dict(node["attributes"][ATTRIBUTE])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{backend.url} is no activation store: its {key} does not hold the attribute {ATTRIBUTE!r}"
        ) from error
    return Manifest.from_json(content, backend.url)


def group_json(manifest: Manifest) -> bytes:
    """The zarr group's metadata with the manifest among its attributes."""
    attributes = {"coordinates": "n_tokens label split dataset token", ATTRIBUTE: manifest.to_json()}
    if manifest.layout.ragged:
        attributes["coordinates"] = "n_tokens label split dataset token_start"
    node = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    return json.dumps(node, indent=2, ensure_ascii=False).encode()


def canonical(content: Any) -> bytes:
    """JSON of one form only."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest_of(content: Any) -> str:
    """sha256 of canonical JSON."""
    return hashlib.sha256(canonical(content)).hexdigest()


def record_rows(records: Sequence[PromptRecord | None]) -> list[list[Any] | None]:
    """Hashes, lengths, labels, splits and datasets, as JSON holds them."""
    return [None if r is None else [r.hash, r.n_tokens, r.label, r.split, r.dataset] for r in records]


def records_digest(records: Sequence[PromptRecord]) -> str:
    """sha256 over records, in order."""
    return digest_of(record_rows(records))


def plain_json(identity: Mapping[str, Any], url: str) -> dict[str, Any]:
    """An identity as JSON gives it back (tuples become lists). Raises UserError for what JSON cannot hold."""
    try:
        result: dict[str, Any] = json.loads(json.dumps(dict(identity), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise UserError(f"store {url}: the identity is not JSON: {error}") from error
    return result


def require_same_maker(manifest: Manifest, identity: Mapping[str, Any], layout: Layout, url: str) -> None:
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
