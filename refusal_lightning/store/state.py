"""What a process knows of a store: what it is, which prompt stands in which row, what is complete, as last seen."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from refusal_lightning.errors import UserError
from refusal_lightning.store.backend.protocol import Backend
from refusal_lightning.store.errors import StoreError
from refusal_lightning.store.format.layout import Shard
from refusal_lightning.store.format.log import Logged
from refusal_lightning.store.format.manifest import Manifest
from refusal_lightning.store.format.rows import RowTable
from refusal_lightning.store.opening import current
from refusal_lightning.store.query import Query, make_query
from refusal_lightning.store.reading import StoredArray
from refusal_lightning.store.shards import complete_shards, stored_arrays

SEEN_SECONDS = 60.0
"""After so long what one node has planned is seen by every other: NFS may show a folder as it was."""


class StoreState:
    """A store as last seen. ``refresh`` looks again; what was found complete is not looked at again."""

    logged: Logged
    arrays: dict[str, StoredArray]

    def __init__(self, backend: Backend, logged: Logged) -> None:
        self.backend = backend
        self._complete: set[int] = set()
        self.take(logged)

    def take(self, logged: Logged) -> None:
        """Know this from now on."""
        self.logged = logged
        self.arrays = stored_arrays(self.backend, logged)

    def refresh(self) -> None:
        """See what other processes have planned since. Raises StoreError if the store is gone."""
        logged = current(self.backend, self.logged)
        if logged is None:
            raise StoreError(f"the activation store {self.url} is gone")
        if logged is not self.logged:
            self.take(logged)

    @property
    def url(self) -> str:
        """Where the store is."""
        return self.backend.url

    @property
    def manifest(self) -> Manifest:
        """What the store is."""
        return self.logged.manifest

    @property
    def table(self) -> RowTable:
        """Which prompt stands in which row."""
        return self.logged.table

    def array(self, name: str) -> StoredArray:
        """An array of data. Raises UserError if there is none of this name."""
        if name not in self.arrays:
            raise UserError(f"store {self.url} holds no {name!r}; there are {', '.join(self.arrays)}")
        return self.arrays[name]

    def complete_shards(self) -> set[int]:
        """Shards whose objects are all there, and of the prompts planned for them."""
        if len(self._complete) < len(self.table.shards):
            self._complete = complete_shards(self.arrays.values(), len(self.table.shards), self._complete)
        return self._complete

    def complete_rows(self) -> np.ndarray:
        """[prompt] int64: rows of the prompts whose shards are complete, ascending."""
        self.refresh()
        complete = np.array(sorted(self.complete_shards()), np.int64)
        rows = self.table.rows
        return rows[np.isin(self.table.shard_of(rows), complete)]

    def lacking(self, hashes: Sequence[str]) -> list[str]:
        """Those of the prompts (each once) whose data are not complete, planned or not."""
        self.refresh()
        complete, row_of = self.complete_shards(), self.table.row_of
        return [h for h in dict.fromkeys(hashes) if h not in row_of or self.table.shard_of(row_of[h]) not in complete]

    def rows(self, hashes: Sequence[str]) -> np.ndarray:
        """[prompt] int64: rows of complete prompts, in their order. Raises UserError with how many are lacking."""
        lacking = self.lacking(hashes)
        if lacking:
            raise UserError(
                f"{len(lacking)} of {len(set(hashes))} prompts are not (yet) in store {self.url}; run `cache` for them"
            )
        return np.array([self.table.row_of[h] for h in hashes], dtype=np.int64)

    def pending(self, hashes: Sequence[str] | None) -> list[Shard]:
        """Planned shards that are not complete, those of all prompts or of some."""
        self.refresh()
        complete, row_of = self.complete_shards(), self.table.row_of
        rows = self.table.rows if hashes is None else np.array([row_of[h] for h in hashes if h in row_of], np.int64)
        needed = np.unique(self.table.shard_of(rows)).tolist()
        return [self.table.shards[index] for index in needed if index not in complete]

    def shard(self, index: int) -> Shard:
        """A planned shard. Raises IndexError if nobody plans it within SEEN_SECONDS."""
        until = time.monotonic() + SEEN_SECONDS
        while index >= len(self.table.shards):
            self.refresh()
            if index < len(self.table.shards) or time.monotonic() > until:
                break
            time.sleep(0.1)
        return self.table.shards[index]

    def query(
        self,
        name: str,
        rows: Sequence[int] | np.ndarray,
        layers: Sequence[int] | None = None,
        positions: Sequence[int] | None = None,
    ) -> Query:
        """What is asked of an array, checked; see ``make_query``."""
        return make_query(self.array(name), self.manifest.layout, self.table, rows, layers, positions)

    def query_prompts(
        self,
        name: str,
        hashes: Sequence[str],
        layers: Sequence[int] | None,
        positions: Sequence[int] | None = None,
    ) -> Query:
        """The same of prompts, all of which must be complete. Raises UserError if there are none."""
        self.array(name)
        if not len(hashes):
            raise UserError(f"store {self.url}: the mean of no prompts was asked for")
        return self.query(name, self.rows(hashes), layers, positions)
