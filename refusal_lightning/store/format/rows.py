"""Which prompt stands in which row: rows are dealt out when prompts are added, shard by shard, and never move."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from refusal_lightning.errors import UserError
from refusal_lightning.store.format.chunking import Geometry
from refusal_lightning.store.format.layout import PromptRecord, Shard


class RowTable:
    """The rows of a store. None is a row that belongs to no prompt: an addition left its shard partial."""

    def __init__(self, geometry: Geometry, records: Sequence[PromptRecord | None]) -> None:
        self.geometry, self.records = geometry, records

    @cached_property
    def row_of(self) -> dict[str, int]:
        """Row of each prompt, by hash; of one that was planned again, the later."""
        return {record.hash: row for row, record in enumerate(self.records) if record}

    def shard_of(self, row: Any) -> Any:
        """The shard of a row, or of an array of rows."""
        return row // self.geometry.shard_prompts

    @cached_property
    def rows(self) -> np.ndarray:
        """[prompt] int64: the row of every prompt, ascending."""
        return np.sort(np.fromiter(self.row_of.values(), np.int64, len(self.row_of)))

    @cached_property
    def shards(self) -> tuple[Shard, ...]:
        """All shards, in order; every one holds at least one prompt."""
        size = self.geometry.shard_prompts
        shards = []
        for index in range(-(-len(self.records) // size)):
            held = [record for record in self.records[index * size : (index + 1) * size] if record]
            rows = range(index * size, index * size + len(held))
            shards.append(Shard(index, rows, tuple(r.hash for r in held), tuple(r.n_tokens for r in held)))
        return tuple(shards)

    @cached_property
    def n_tokens(self) -> np.ndarray:
        """[row] int64: tokens of each row's prompt; 0: no prompt."""
        return np.array([record.n_tokens if record else 0 for record in self.records], np.int64)

    def token_rows(self, rows: np.ndarray) -> np.ndarray:
        """Rows of the token axis of all tokens of these prompts, one prompt after the other."""
        counts = self.n_tokens[rows]
        ends = np.cumsum(counts)
        return np.arange(counts.sum()) + np.repeat(self.token_starts[rows] - (ends - counts), counts)

    @cached_property
    def token_starts(self) -> np.ndarray:
        """[row] int64: where a prompt's tokens start on the token axis, with all positions stored; -1: no prompt."""
        starts = np.full(len(self.records), -1, dtype="<i8")
        for shard in self.shards:
            first = shard.index * (self.geometry.shard_tokens or 0)
            starts[shard.rows.start : shard.rows.stop] = first + np.cumsum([0, *shard.n_tokens[:-1]])
        return starts

    @property
    def token_axis(self) -> int:
        """Length of the token axis, in stores of all positions."""
        if not self.shards:
            return 0
        return self.shards[-1].index * (self.geometry.shard_tokens or 0) + sum(self.shards[-1].n_tokens)

    def beside_others(self, hashes: Collection[str], complete: Collection[int]) -> set[str]:
        """Those of the prompts whose shard is not complete and holds others, without which it cannot be written."""
        wanted, size = set(hashes), self.geometry.shard_prompts
        shards = {self.row_of[prompt] // size for prompt in wanted & self.row_of.keys()} - set(complete)
        mixed = {index for index in shards if not wanted.issuperset(self.shards[index].hashes)}
        return {prompt for prompt in wanted & self.row_of.keys() if self.row_of[prompt] // size in mixed}

    def new_rows(
        self, records: Sequence[PromptRecord], again: Collection[str] = ()
    ) -> tuple[list[PromptRecord | None], list[PromptRecord], int]:
        """Rows to append for prompts that are lacking or planned ``again``: (rows with gaps, prompts, their shards).

        The first shard starts on a fresh boundary, since no shard is ever written twice.
        """
        first: dict[str, PromptRecord] = {}
        for record in records:
            if record.hash not in self.row_of or record.hash in again:
                first.setdefault(record.hash, record)
        fresh = list(first.values())
        if not fresh:
            return [], [], 0
        size = self.geometry.shard_prompts
        packed = list(_pack(fresh, self.geometry))
        rows: list[PromptRecord | None] = [None] * (-len(self.records) % size)
        for held in packed[:-1]:
            rows += [*held, *[None] * (size - len(held))]
        return [*rows, *packed[-1]], fresh, len(packed)


def _pack(records: Sequence[PromptRecord], geometry: Geometry) -> Iterator[list[PromptRecord]]:
    """Shards of consecutive prompts, each as full as prompts (and tokens) allow. Raises UserError for one too long."""
    held: list[PromptRecord] = []
    tokens = 0
    most, full = geometry.shard_tokens, geometry.fill_tokens
    for record in records:
        if most is not None and record.n_tokens > most:
            raise UserError(
                f"activation store: a prompt has {record.n_tokens} tokens and a shard of this store holds {most}; "
                "make the store with larger shards"
            )
        no_room = full is not None and tokens + record.n_tokens > full
        if held and (no_room or len(held) == geometry.shard_prompts):
            yield held
            held, tokens = [], 0
        held.append(record)
        tokens += record.n_tokens
    yield held
