"""ActivationStore: activations of prompts, cached once and read for years."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from refusal_lightning.errors import UserError
from refusal_lightning.store import adding, opening, results
from refusal_lightning.store.backend.open import open_backend
from refusal_lightning.store.backend.protocol import Backend
from refusal_lightning.store.estimate import Estimate, estimate
from refusal_lightning.store.format.chunking import choose_geometry
from refusal_lightning.store.format.layout import Encoding, Layout, PromptRecord, Shard
from refusal_lightning.store.format.log import Logged
from refusal_lightning.store.format.manifest import Manifest, plain_json
from refusal_lightning.store.lazy import LazyArray
from refusal_lightning.store.prompts import Prompts
from refusal_lightning.store.query import prompt_rows
from refusal_lightning.store.state import StoreState


class ActivationStore:
    """A zarr group of activations by prompt, layer and position; see docs/store.md for the format.

    One process plans (``add_prompts``), any number write different shards, any number read, all at the same time.
    A shard is absent or complete; what is complete never changes.
    """

    def __init__(self, backend: Backend, logged: Logged) -> None:
        """Use ``open`` or ``create_or_open``."""
        self._state = StoreState(backend, logged)

    # ---- opening

    @classmethod
    def exists(cls, url: str | Path, storage_options: Mapping[str, Any] | None = None) -> bool:
        """Whether there is a store. Raises UserError for something that is no store."""
        return opening.current(open_backend(url, storage_options)) is not None

    @classmethod
    def open(cls, url: str | Path, storage_options: Mapping[str, Any] | None = None) -> ActivationStore:
        """Open a store. Raises UserError if there is none, if it is of a newer format or its manifest was edited."""
        backend = open_backend(url, storage_options)
        return cls(backend, opening.existing(backend))

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
        backend = open_backend(url, storage_options)
        encoding = encoding or Encoding()
        geometry = choose_geometry(layout, encoding, planned, planned_tokens, longest, context)
        tokens = None if position_tokens is None else tuple(position_tokens)
        manifest = Manifest(plain_json(identity, backend.url), layout, encoding, geometry, position_tokens=tokens)
        store = cls(backend, opening.existing_or_created(backend, manifest))
        adding.mend_row_files(store._state)
        return store

    # ---- what it is

    @property
    def url(self) -> str:
        """Where it is."""
        return self._state.url

    @property
    def manifest(self) -> dict[str, Any]:
        """The manifest as JSON."""
        return self._state.manifest.to_json()

    @property
    def identity(self) -> dict[str, Any]:
        """What made the activations."""
        return self._state.manifest.identity

    @property
    def layout(self) -> Layout:
        """What is stored per prompt."""
        return self._state.manifest.layout

    @property
    def encoding(self) -> Encoding:
        """How it is kept."""
        return self._state.manifest.encoding

    @property
    def longest_prompt(self) -> int | None:
        """The most tokens that a prompt may have; None where there is no such bound."""
        return self._state.manifest.geometry.shard_tokens

    @property
    def prompts(self) -> Prompts:
        """All planned prompts, as of now."""
        self.refresh()
        complete, table = self._state.complete_shards(), self._state.table
        rows = table.rows.tolist()
        return Prompts.of([table.records[row] for row in rows], rows, [table.shard_of(row) in complete for row in rows])

    def refresh(self) -> None:
        """See what other processes have planned since. Reading and planning methods do this by themselves."""
        self._state.refresh()

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
        return adding.add_prompts(self._state, records, plain_json(made_with or {}, self.url), apart=apart)

    def pending(self, hashes: Sequence[str] | None = None) -> list[Shard]:
        """Planned shards that are not complete, those of all prompts or of some."""
        return self._state.pending(hashes)

    def lacking(self, hashes: Sequence[str]) -> list[str]:
        """Those of the prompts (each once) whose data are not complete, planned or not."""
        return self._state.lacking(hashes)

    def complete(self, hashes: Sequence[str]) -> bool:
        """Whether the data of all these prompts are there."""
        return not self.lacking(hashes)

    def rows(self, hashes: Sequence[str]) -> np.ndarray:
        """[prompt] int64: the rows of prompts, in their order. Raises UserError with how many are lacking."""
        return self._state.rows(hashes)

    @property
    def shards(self) -> tuple[Shard, ...]:
        """All planned shards, as last seen."""
        return self._state.table.shards

    def shard(self, index: int) -> Shard:
        """A planned shard by its number. Raises IndexError if nobody plans it within SEEN_SECONDS."""
        return self._state.shard(index)

    def estimate(self, n_prompts: int, n_tokens: int | None = None) -> Estimate:
        """What that many further prompts will take."""
        return estimate(self.layout, self.encoding, n_prompts, n_tokens, geometry=self._state.manifest.geometry)

    def estimate_for(self, records: Sequence[PromptRecord]) -> Estimate:
        """What adding those prompts that are not planned, and writing all that are not complete, will take."""
        return adding.estimate_addition(self._state, records)

    def compression_ratios(self) -> dict[str, float]:
        """Stored bytes per byte of what the complete shards hold, by array; empty where nothing is complete."""
        return adding.compression_ratios(self._state)

    def stored_bytes(self) -> int:
        """Bytes that the files of all arrays take."""
        return adding.stored_bytes(self._state)

    def check_space(self, bound: Estimate) -> None:
        """Raises UserError if the disk cannot hold what is planned."""
        adding.check_space(self._state.backend, bound)

    # ---- writing

    def write_shard(self, index: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Write one shard: every array, floating point, its rows in the shard's order. Durable on return.

        Rows are prompts; with all positions stored, rows of hook points are the tokens of the prompts, one prompt
        after the other. An array that is already there is left alone. Raises ValueError for wrong shapes or values
        that the stored type cannot hold, StoreError for a full disk: what was complete stays so.
        """
        adding.write_shard(self._state, index, arrays)

    # ---- reading

    def complete_rows(self) -> np.ndarray:
        """[prompt] int64: rows of all prompts whose data are complete by now, ascending."""
        return self._state.complete_rows()

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
        rows = self.complete_rows() if rows is None else rows
        return self._state.query(name, rows, layers, positions).read(np.dtype(dtype))

    def __getitem__(self, name: str) -> LazyArray:
        """An array of the prompts that are complete now, in order of rows, to be sliced: ``store["resid_pre"][:8, 3]``.

        Raises UserError for hook points where all positions are stored: ``read`` gives those.
        """
        spec = self._state.array(name).spec
        if spec.per_token:
            raise UserError(
                f"store {self.url} holds all tokens of each prompt: use read({name!r}, rows, positions=...)"
            )
        rows, held = self.complete_rows(), self.layout.layers

        def read(places: np.ndarray, layers: np.ndarray | None) -> np.ndarray:
            return self.read(name, rows[places], None if layers is None else [held[i] for i in layers.tolist()])

        return LazyArray((len(rows), *spec.shape), spec.dims, read)

    def token_offsets(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """[prompt + 1] int64: prompt i's tokens are rows ``offsets[i]:offsets[i + 1]`` of what ``read`` returns."""
        table = self._state.table
        return np.cumsum([0, *table.n_tokens[prompt_rows(table, rows, self.url)]], dtype=np.int64)

    def iter_shards(
        self, name: str, hashes: Sequence[str] | None = None, layers: Sequence[int] | None = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(rows, data) shard by shard, of all complete prompts or of these (each once); data as ``read`` gives them."""
        rows = self.complete_rows() if hashes is None else np.unique(self.rows(hashes))
        for part in self.by_shard(rows):
            yield part, self.read(name, part, layers)

    def by_shard(self, rows: np.ndarray) -> list[np.ndarray]:
        """Ascending rows, divided where one shard ends and the next begins."""
        cuts = np.flatnonzero(np.diff(self._state.table.shard_of(rows))) + 1
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
        return self._state.query_prompts(name, hashes, layers, positions).mean()

    def covariance(
        self, name: str, hashes: Sequence[str], layers: Sequence[int] | None = None, ddof: int = 1
    ) -> np.ndarray:
        """Covariance over prompts at each layer and position, float64: [layer, position, d_model, d_model].

        With all positions stored it is over all tokens: [layer, d_model, d_model]. Divides by the number of rows less
        ``ddof``. Takes d_model^2 * 8 bytes per layer and position: choose layers.
        """
        return self._state.query_prompts(name, hashes, layers).covariance(ddof)

    # ---- derived results

    def save_result(self, key: str, arrays: Mapping[str, np.ndarray], attrs: Mapping[str, Any]) -> None:
        """Keep small derived arrays under a name, in place of what was there; a reader sees the old or the new."""
        results.save(self._state.backend, key, arrays, attrs)

    def load_result(self, key: str) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
        """(arrays, attrs) as they were saved, bit for bit; None if there is none. Raises StoreError on damage."""
        return results.load(self._state.backend, key)

    def why_not_writable(self) -> str | None:
        """Why no result can be saved here, in words; None if one can. Writes a small object and deletes it."""
        return results.why_not_writable(self._state.backend)

    def results(self) -> list[str]:
        """Names of the derived results."""
        return results.listed(self._state.backend)
