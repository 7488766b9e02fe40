"""ActivationStore: activations of prompts, cached once and read for years."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from refusal_lightning.errors import UserError
from refusal_lightning.store import moments, results
from refusal_lightning.store.backend.open import open_backend
from refusal_lightning.store.backend.protocol import Backend
from refusal_lightning.store.errors import StoreError
from refusal_lightning.store.estimate import Estimate, estimate
from refusal_lightning.store.format import coordinates, format1, log, row_files
from refusal_lightning.store.format.chunking import ArraySpec, array_specs, plan_geometry, row_bytes
from refusal_lightning.store.format.layout import LOGITS, Encoding, Layout, PromptRecord, Shard
from refusal_lightning.store.format.log import Logged
from refusal_lightning.store.format.manifest import Manifest, plain_json, refuse_other
from refusal_lightning.store.format.rows import RowTable
from refusal_lightning.store.format.shard_file import BINDING_BYTES, as_groups, check_shape, encode, shard_key
from refusal_lightning.store.lazy import LazyArray
from refusal_lightning.store.opening import current
from refusal_lightning.store.prompts import Prompts
from refusal_lightning.store.reading import Source, read_rows
from refusal_lightning.store.shards import complete_shards, fitting, shard_sizes, sources

SEEN_SECONDS = 60.0
"""After so long what one node has planned is seen by every other: NFS may show a folder as it was."""


class ActivationStore:
    """A zarr group of activations by prompt, layer and position; see docs/store.md for the format.

    One process plans (``add_prompts``), any number write different shards, any number read, all at the same time.
    A shard is absent or complete; what is complete never changes.
    """

    _logged: Logged
    _plan: RowTable

    def __init__(self, objects: Backend, logged: Logged) -> None:
        """Use ``open`` or ``create_or_open``."""
        self._objects = objects
        self._complete: set[int] = set()
        self._take(logged)

    # ---- opening

    @classmethod
    def exists(cls, url: str | Path, storage_options: Mapping[str, Any] | None = None) -> bool:
        """Whether there is a store. Raises UserError for something that is no store."""
        return current(open_backend(url, storage_options)) is not None

    @classmethod
    def open(cls, url: str | Path, storage_options: Mapping[str, Any] | None = None) -> ActivationStore:
        """Open a store. Raises UserError if there is none, if it is of a newer format or its manifest was edited."""
        objects = open_backend(url, storage_options)
        logged = current(objects)
        if logged is None:
            raise UserError(f"there is no activation store at {objects.url}")
        return cls(objects, logged)

    @classmethod
    def create_or_open(
        cls,
        url: str | Path,
        identity: Mapping[str, Any],
        layout: Layout,
        encoding: Encoding | None = None,
        storage_options: Mapping[str, Any] | None = None,
        position_tokens: Sequence[str] | None = None,
        *,
        planned: int | None = None,
        planned_tokens: int | None = None,
        longest: int | None = None,
        context: int | None = None,
    ) -> ActivationStore:
        """Open a store for these activations, made if it is not there.

        ``identity`` is any JSON that says what the activations depend on; ``position_tokens`` the text of each
        position, a coordinate for readers. The planned number of prompts, of all their tokens and of the longest
        prompt's set the size of shards; with all positions, ``context`` is the most tokens of a later prompt that there
        should be rows for. Raises UserError with each differing field if the store there is another's.
        """
        objects = open_backend(url, storage_options)
        plain = plain_json(identity, objects.url)
        logged = current(objects)
        if logged is None:
            encoding = encoding or Encoding()
            geometry = plan_geometry(layout, encoding, planned, planned_tokens, longest, context)
            refuse_foreign(objects, layout)
            tokens = None if position_tokens is None else tuple(position_tokens)
            log.create(objects, Manifest(plain, layout, encoding, geometry, position_tokens=tokens))
            logged = current(objects)
            assert logged is not None
        refuse_other(logged.manifest, plain, layout, objects.url)
        store = cls(objects, logged)
        store._mend()
        return store

    # ---- what it is

    @property
    def url(self) -> str:
        """Where it is."""
        return self._objects.url

    @property
    def manifest(self) -> dict[str, Any]:
        """The manifest as JSON."""
        return self._manifest.to_json()

    @property
    def identity(self) -> dict[str, Any]:
        """What made the activations."""
        return self._manifest.identity

    @property
    def layout(self) -> Layout:
        """What is stored per prompt."""
        return self._manifest.layout

    @property
    def encoding(self) -> Encoding:
        """How it is kept."""
        return self._manifest.encoding

    @property
    def longest_prompt(self) -> int | None:
        """The most tokens that a prompt may have; None where there is no such bound."""
        return self._manifest.geometry.shard_tokens

    @property
    def prompts(self) -> Prompts:
        """All planned prompts, as of now."""
        self.refresh()
        complete = self._complete_shards()
        size = self._manifest.geometry.shard_prompts
        rows = self._plan.rows.tolist()
        return Prompts.of([self._plan.records[r] for r in rows], rows, [r // size in complete for r in rows])

    def refresh(self) -> None:
        """See what other processes have planned since. Reading and planning methods do this by themselves."""
        logged = current(self._objects, self._logged)
        if logged is None:
            raise StoreError(f"the activation store {self.url} is gone")
        if logged is not self._logged:
            self._take(logged)

    # ---- planning

    def add_prompts(
        self, records: Sequence[PromptRecord], made_with: Mapping[str, Any] | None = None, *, apart: bool = False
    ) -> int:
        """Plan rows for the prompts that are lacking, in the order given; how many were. No data are written yet.

        ``made_with`` is any JSON that the manifest keeps beside them for people to read, such as package versions.
        ``apart`` plans those again whose shard is not complete and holds other prompts too, as a run leaves it that
        did not finish: what it planned stays and may still be written, and from now on the new rows count.
        Raises UserError if the store cannot be written.
        """
        note = plain_json(made_with or {}, self.url)
        self._objects.remove_stale_partials()
        self.refresh()
        while True:
            again = self._plan.beside_others([r.hash for r in records], self._complete_shards()) if apart else set()
            if not again and all(record.hash in self._plan.row_of for record in records):
                return 0
            if not self._logged.digests:
                self._take(log.begin(self._objects, self._logged))  # which another process may have gone on with
                continue
            known = self._logged
            logged = log.append(self._objects, known, records, note, again)
            if logged is None:  # another process planned first: behind what it planned
                self.refresh()
                continue
            self._take(logged)
            self._drop_left_over(range(len(known.plan.shards), len(self._plan.shards)))
            self._publish()
            return logged.manifest.segments[-1].prompts

    def pending(self, hashes: Sequence[str] | None = None) -> list[Shard]:
        """Planned shards that are not complete, those of all prompts or of some."""
        self.refresh()
        complete, size = self._complete_shards(), self._manifest.geometry.shard_prompts
        row_of = self._plan.row_of
        rows = self._plan.rows if hashes is None else np.array([row_of[h] for h in hashes if h in row_of], np.int64)
        return [self._plan.shards[index] for index in np.unique(rows // size).tolist() if index not in complete]

    def lacking(self, hashes: Sequence[str]) -> list[str]:
        """Those of the prompts (each once) whose data are not complete, planned or not."""
        self.refresh()
        complete = self._complete_shards()
        size = self._manifest.geometry.shard_prompts
        row_of = self._plan.row_of
        return [h for h in dict.fromkeys(hashes) if h not in row_of or row_of[h] // size not in complete]

    def complete(self, hashes: Sequence[str]) -> bool:
        """Whether the data of all these prompts are there."""
        return not self.lacking(hashes)

    def rows(self, hashes: Sequence[str]) -> np.ndarray:
        """[prompt] int64: the rows of prompts, in their order. Raises UserError with how many are lacking."""
        lacking = self.lacking(hashes)
        if lacking:
            raise UserError(
                f"{len(lacking)} of {len(set(hashes))} prompts are not (yet) in store {self.url}; run `cache` for them"
            )
        return np.array([self._plan.row_of[h] for h in hashes], dtype=np.int64)

    @property
    def shards(self) -> tuple[Shard, ...]:
        """All planned shards, as last seen."""
        return self._plan.shards

    def shard(self, index: int) -> Shard:
        """A planned shard by its number. Raises IndexError if nobody plans it within SEEN_SECONDS."""
        until = time.monotonic() + SEEN_SECONDS
        while index >= len(self._plan.shards):
            self.refresh()
            if index < len(self._plan.shards) or time.monotonic() > until:
                break
            time.sleep(0.1)
        return self._plan.shards[index]

    def estimate(self, n_prompts: int, n_tokens: int | None = None) -> Estimate:
        """What that many further prompts will take."""
        geometry = self._manifest.geometry
        return estimate(self.layout, self.encoding, n_prompts, n_tokens, geometry=geometry)

    def estimate_for(self, records: Sequence[PromptRecord]) -> Estimate:
        """What adding those prompts that are not planned, and writing all that are not complete, will take."""
        self.refresh()
        _, fresh, shards = self._plan.new_rows(records)
        pending = self.pending([record.hash for record in records])
        n_prompts = len(fresh) + sum(shard.n_rows for shard in pending)
        n_tokens = sum(record.n_tokens for record in fresh) + sum(sum(shard.n_tokens) for shard in pending)
        geometry = self._manifest.geometry
        shards += len(pending)
        ratios = self.compression_ratios()
        return estimate(
            self.layout, self.encoding, n_prompts, n_tokens, geometry=geometry, shards=shards, ratios=ratios
        )

    def compression_ratios(self) -> dict[str, float]:
        """Stored bytes per byte of what the complete shards hold, by array; empty where nothing is complete."""
        complete = sorted(self._complete_shards())
        done = [self.shard(index) for index in complete]
        ratios = {}
        for name, spec in self._specs.items():
            rows = sum(sum(s.n_tokens) if spec.dims[0] == "token" else s.n_rows for s in done)
            sizes = shard_sizes(self._sources[name])
            found = [sizes.get(index) for index in complete]
            if rows and None not in found:
                stored = sum(size - spec.index_bytes - BINDING_BYTES for size in found if size is not None)
                ratios[name] = stored / (rows * row_bytes(self.layout, self.encoding, name))
        return ratios

    def check_space(self, bound: Estimate) -> None:
        """Raises UserError if the disk cannot hold what is planned."""
        free = self._objects.free_bytes()
        if free is not None and free < bound.likely_bytes:
            raise UserError(
                f"store {self.url} needs about {bound.likely_bytes / 1e9:.2f} GB more and its disk has "
                f"{free / 1e9:.2f} GB free; free some space, or choose another place"
            )

    # ---- writing

    def write_shard(self, index: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Write one shard: every array, floating point, its rows in the shard's order. Durable on return.

        Rows are prompts; with all positions stored, rows of hook points are the tokens of the prompts, one prompt
        after the other. An array that is already there is left alone. Raises ValueError for wrong shapes or values
        that the stored type cannot hold, StoreError for a full disk: what was complete stays so.
        """
        shard = self.shard(index)
        specs = self._specs
        if set(arrays) != set(specs):
            raise ValueError(f"shard {index}: arrays {sorted(arrays)} where {sorted(specs)} belong")
        for name, spec in specs.items():
            check_shape(spec, arrays[name], sum(shard.n_tokens) if spec.dims[0] == "token" else shard.n_rows)
        for name, spec in specs.items():
            source = self._sources[name]
            if not self._objects.size(shard_key(spec, index)) or not fitting(source, [index]):
                binding = source.binding and source.binding(index)
                parts = encode(spec, self.encoding.compression, as_groups(spec, arrays[name]), binding)
                self._objects.write(shard_key(spec, index), parts)

    # ---- reading

    def complete_rows(self) -> np.ndarray:
        """[prompt] int64: rows of all prompts whose data are complete by now, ascending."""
        self.refresh()
        complete = np.array(sorted(self._complete_shards()), np.int64)
        rows = self._plan.rows
        return rows[np.isin(rows // self._manifest.geometry.shard_prompts, complete)]

    def read(
        self,
        name: str,
        rows: Sequence[int] | np.ndarray | None = None,
        layers: Sequence[int] | None = None,
        dtype: Any = np.float32,
        positions: Sequence[int] | None = None,
    ) -> np.ndarray:
        """Rows of an array in the order asked for (default: all complete), of some layers and positions (default: all).

        [prompt, layer, position, d_model], or [prompt, vocab] for the logits, float32 or float64. With all positions
        stored: [token, layer, d_model], the prompts' tokens one prompt after the other; ``token_offsets`` says where;
        with ``positions``, as -1 for the last, [prompt, layer, position, d_model] of these too.
        Raises StoreError, never returns wrong numbers, if data are damaged.
        """
        source = self._source(name)
        groups = self._groups(source.spec, layers)
        rows = self._checked(self.complete_rows() if rows is None else rows)
        if positions is not None and source.spec.dims[0] == "token":
            tokens = np.stack([self._token_rows_at(rows, position) for position in positions], axis=1)
            out = read_rows(source, tokens.reshape(-1), groups, np.dtype(dtype))
            return out.reshape(*tokens.shape, len(groups), self.layout.d_model).swapaxes(1, 2)
        out = read_rows(source, self._array_rows(source.spec, rows), groups, np.dtype(dtype))
        out = out.reshape(len(out), *self._shape(source.spec, groups))
        return out if positions is None else out[:, :, self._position_places(source.spec, positions)]

    def __getitem__(self, name: str) -> LazyArray:
        """An array of the prompts that are complete now, in order of rows, to be sliced: ``store["resid_pre"][:8, 3]``.

        Raises UserError for hook points where all positions are stored: ``read`` gives those.
        """
        source = self._source(name)
        if source.spec.dims[0] == "token":
            raise UserError(
                f"store {self.url} holds all tokens of each prompt: use read({name!r}, rows, positions=...)"
            )
        rows, held = self.complete_rows(), self.layout.layers

        def read(places: np.ndarray, layers: np.ndarray | None) -> np.ndarray:
            return self.read(name, rows[places], None if layers is None else [held[i] for i in layers.tolist()])

        return LazyArray((len(rows), *source.spec.shape), source.spec.dims, read)

    def token_offsets(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """[prompt + 1] int64: prompt i's tokens are rows ``offsets[i]:offsets[i + 1]`` of what ``read`` returns."""
        records = [self._plan.records[int(row)] for row in self._checked(rows)]
        return np.cumsum([0, *(record.n_tokens for record in records if record)], dtype=np.int64)

    def iter_shards(
        self, name: str, hashes: Sequence[str] | None = None, layers: Sequence[int] | None = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(rows, data) shard by shard, of all complete prompts or of these (each once); data as ``read`` gives them."""
        rows = self.complete_rows() if hashes is None else np.unique(self.rows(hashes))
        for part in self.by_shard(rows):
            yield part, self.read(name, part, layers)

    def by_shard(self, rows: np.ndarray) -> list[np.ndarray]:
        """Ascending rows, divided where one shard ends and the next begins."""
        cuts = np.flatnonzero(np.diff(rows // self._manifest.geometry.shard_prompts)) + 1
        return [part for part in np.split(rows, cuts) if len(part)]

    def mean(
        self,
        name: str,
        hashes: Sequence[str],
        layers: Sequence[int] | None = None,
        positions: Sequence[int] | None = None,
    ) -> np.ndarray:
        """Mean over prompts, float64: [layer, position, d_model] ([vocab] for logits); one chunk in memory at a time.

        With all positions stored and none named, the mean is over all tokens: [layer, d_model].
        """
        source, groups, rows = self._selected(name, hashes, layers)
        if positions is not None and source.spec.dims[0] == "token":
            prompts = self.rows(hashes)
            at = [moments.mean(source, self._token_rows_at(prompts, position), groups) for position in positions]
            return np.stack(at, axis=1)
        out = moments.mean(source, rows, groups).reshape(self._shape(source.spec, groups))
        return out if positions is None else out[:, self._position_places(source.spec, positions)]

    def covariance(
        self, name: str, hashes: Sequence[str], layers: Sequence[int] | None = None, ddof: int = 1
    ) -> np.ndarray:
        """Covariance over prompts at each layer and position, float64: [layer, position, d_model, d_model].

        With all positions stored it is over all tokens: [layer, d_model, d_model]. Divides by the number of rows less
        ``ddof``. Takes d_model^2 * 8 bytes per layer and position: choose layers.
        """
        source, groups, rows = self._selected(name, hashes, layers)
        if name == LOGITS:
            raise UserError(f"store {self.url}: there is no covariance of {name}, only of activations")
        result = moments.covariance(source, rows, groups, source.spec.values // self.layout.d_model, ddof)
        return result.reshape(*self._shape(source.spec, groups), self.layout.d_model)

    # ---- derived results

    def save_result(self, key: str, arrays: Mapping[str, np.ndarray], attrs: Mapping[str, Any]) -> None:
        """Keep small derived arrays under a name, in place of what was there; a reader sees the old or the new."""
        results.save(self._objects, key, arrays, attrs)

    def load_result(self, key: str) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
        """(arrays, attrs) as they were saved, bit for bit; None if there is none. Raises StoreError on damage."""
        return results.load(self._objects, key)

    def why_not_writable(self) -> str | None:
        """Why no result can be saved here, in words; None if one can. Writes a small object and deletes it."""
        return results.why_not_writable(self._objects)

    def results(self) -> list[str]:
        """Names of the derived results."""
        return results.listed(self._objects)

    # ---- inside

    def _take(self, logged: Logged) -> None:
        self._logged, self._manifest, self._plan = logged, logged.manifest, logged.plan
        self._specs = array_specs(self._manifest.layout, self._manifest.encoding, self._manifest.geometry)
        self._sources = sources(self._objects, logged)

    def _publish(self) -> None:
        """Write what zarr readers see."""
        self._take(row_files.publish(self._objects, self._logged))

    def _mend(self) -> None:
        """Write what zarr readers see, where a process that planned was stopped before it had. If one may write."""
        if self._logged.digests and not row_files.is_current(self._objects, self._logged):
            with suppress(UserError):
                self._publish()

    def _drop_left_over(self, shards: range) -> None:
        """Delete files that stand where these shards, planned just now, belong and are not of their prompts."""
        for source in self._sources.values():
            there = [shard for shard in shard_sizes(source) if shard in shards]
            for shard in set(there) - fitting(source, there):
                self._objects.delete(shard_key(source.spec, shard))

    def _complete_shards(self) -> set[int]:
        """Shards whose objects are all there, and theirs. What was found complete is not looked at again."""
        if len(self._complete) < len(self._plan.shards):
            self._complete = complete_shards(self._sources.values(), len(self._plan.shards), self._complete)
        return self._complete

    def _source(self, name: str) -> Source:
        if name not in self._specs:
            raise UserError(f"store {self.url} holds no {name!r}; there are {', '.join(self._specs)}")
        return self._sources[name]

    def _groups(self, spec: ArraySpec, layers: Sequence[int] | None) -> list[int]:
        if layers is None:
            return list(range(spec.groups))
        if len(spec.dims) == 2:
            raise UserError(f"{spec.name} has no layers")
        absent = [layer for layer in layers if layer not in self.layout.layers]
        if absent:
            raise UserError(f"store {self.url} holds no layers {absent}; there are {list(self.layout.layers)}")
        return [self.layout.layers.index(layer) for layer in layers]

    def _shape(self, spec: ArraySpec, groups: Sequence[int]) -> tuple[int, ...]:
        return spec.shape if len(spec.dims) == 2 else (len(groups), *spec.shape[1:])

    def _checked(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        checked = np.asarray(rows, dtype=np.int64).reshape(-1)
        records = self._plan.records
        if any(row < 0 or row >= len(records) or records[row] is None for row in checked.tolist()):
            raise IndexError(f"store {self.url}: rows that belong to no prompt were asked for")
        return checked

    def _array_rows(self, spec: ArraySpec, rows: np.ndarray) -> np.ndarray:
        if spec.dims[0] == "prompt":
            return rows
        starts = self._plan.token_starts
        spans = [np.arange(starts[row], starts[row] + self._plan.records[row].n_tokens) for row in rows.tolist()]
        return np.concatenate(spans or [np.zeros(0, np.int64)])

    def _token_rows_at(self, rows: np.ndarray, position: int) -> np.ndarray:
        """Rows of the token axis of one position, counted from the end, of each prompt."""
        n_tokens = np.array([record.n_tokens for row in rows.tolist() if (record := self._plan.records[row])])
        if position >= 0 or (len(n_tokens) and position < -n_tokens.min()):
            raise UserError(
                f"position {position} was asked for; positions are negative, and the shortest of the prompts in "
                f"store {self.url} has {n_tokens.min()} tokens"
            )
        return self._plan.token_starts[rows] + n_tokens + position

    def _position_places(self, spec: ArraySpec, positions: Sequence[int]) -> list[int]:
        if "position" not in spec.dims:
            raise UserError(f"{spec.name} has no positions")
        held = list(self.layout.positions)
        absent = [position for position in positions if position not in held]
        if absent:
            raise UserError(f"store {self.url} holds no positions {absent}; there are {held}")
        return [held.index(position) for position in positions]

    def _selected(
        self, name: str, hashes: Sequence[str], layers: Sequence[int] | None
    ) -> tuple[Source, list[int], np.ndarray]:
        source = self._source(name)
        if not len(hashes):
            raise UserError(f"store {self.url}: the mean of no prompts was asked for")
        rows = self._array_rows(source.spec, self.rows(hashes))
        return source, self._groups(source.spec, layers), rows


def refuse_foreign(objects: Backend, layout: Layout) -> None:
    """A folder with other things in it, or with a store that lost its manifest, does not become a store."""
    copy = format1.manifest_copy(objects)
    if copy is not None and copy.segments:
        raise UserError(
            f"{objects.url} holds an activation store that has lost its zarr.json: `store repair {objects.url}` "
            "restores it"
        )
    known = {*coordinates.PER_PROMPT, *layout.array_names, "layer", "position", "token", "token_start", "results"}
    foreign = [name for name in objects.folders("") if name not in known]
    foreign += [name for name in objects.sizes("") if not name.endswith(".partial")]
    if foreign and not log.numbers(objects):  # else another process has made the store at this moment
        raise UserError(
            f"{objects.url} holds other things ({', '.join(sorted(foreign)[:3])}): choose an empty place for the store"
        )
