"""Keys and values of a batch whose rows come and go one by one.

Hugging Face's dynamic cache is copied whole for every new token, which at 64 rows costs as much as the rest of the
step. Here the memory is taken once. All rows end at the same column, where the next token is written; a newcomer is
written so that it ends there too. Relative to its own end a row is thus as it would be alone, so causal and
sliding-window masks hold; what lies to the left of a row is masked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

SLACK = 64
"""Columns beyond the longest possible row. When they are used up, the rows move back to the first column."""


class _Window:
    """The columns in use, ``first`` to ``end``: the same in all layers."""

    def __init__(self) -> None:
        self.first = self.end = 0

    @property
    def columns(self) -> slice:
        return slice(self.first, self.end)


class _Layer(DynamicLayer):
    """One layer's memory, ``[slot, head, column, d_head]``. ``keys`` and ``values`` hold all columns."""

    keys: Tensor
    values: Tensor

    def __init__(self, window: _Window) -> None:
        super().__init__()
        self.window = window

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """A step's keys and values go into the last column, which ``SlotCache.step`` has opened."""
        last = self.window.end - 1
        self.keys[:, :, last] = key_states[:, :, 0]
        self.values[:, :, last] = value_states[:, :, 0]
        return self.keys[:, :, self.window.columns], self.values[:, :, self.window.columns]

    def get_seq_length(self) -> int:
        """Columns before the step's own."""
        return self.window.end - self.window.first - 1


class SlotCache:
    """What a batch of slots remembers: keys, values, and which columns are whose."""

    def __init__(self, n_slots: int, longest: int, device: Any) -> None:
        """``longest`` is the most columns a row can take: its padded prompt and its answer."""
        self.capacity = longest + SLACK
        self.mask = torch.zeros(n_slots, self.capacity, dtype=torch.long, device=device)
        self.n_tokens = [0] * n_slots
        self.extent = [0] * n_slots
        """Columns of each slot's row, padding within its prompt included."""
        self.window = _Window()
        self.layers: list[_Layer] = []

    def put(
        self,
        slots: Sequence[int],
        layers: Sequence[tuple[Tensor, Tensor]],
        mask: Int[Tensor, "row token"],
        busy: Sequence[int],
    ) -> None:
        """Rows take slots with the keys and values of their prompts, ``[row, head, token, d_head]`` per layer.

        ``busy`` are the slots that other rows are in; no newcomer may be longer than they are.
        """
        width, n_slots = mask.shape[1], len(self.n_tokens)
        if not self.layers:
            self.layers = [_Layer(self.window) for _ in layers]
            for layer, (keys, values) in zip(self.layers, layers, strict=True):
                layer.keys = keys.new_zeros(n_slots, keys.shape[1], self.capacity, keys.shape[3])
                layer.values = values.new_zeros(n_slots, values.shape[1], self.capacity, values.shape[3])
                layer.is_initialized = True
        if not busy:
            self.window.first, self.window.end = 0, width
        start, end = self.window.end - width, self.window.end
        assert start >= self.window.first
        where = torch.tensor(slots, device=self.mask.device)
        for layer, (keys, values) in zip(self.layers, layers, strict=True):
            layer.keys[where, :, start:end] = keys
            layer.values[where, :, start:end] = values
        self.mask[where] = 0
        self.mask[where, start:end] = mask
        for slot, length in zip(slots, mask.sum(-1).tolist(), strict=True):
            self.n_tokens[slot], self.extent[slot] = length, width

    def step(self, busy: Sequence[int]) -> tuple[Cache, Int[Tensor, "slot column"], Int[Tensor, "slot 1"]]:
        """Open a column for the next token of every slot: the cache, mask and positions of the pass.

        Idle slots are computed along and mean nothing; their position stays, so that it never leaves the model's.
        """
        widest = max(self.extent[slot] for slot in busy)
        self.window.first = self.window.end - widest
        if self.window.end == self.capacity:
            self._move_back()
        positions = torch.tensor(self.n_tokens, device=self.mask.device).unsqueeze(1)
        self.mask[:, self.window.end] = 1
        self.window.end += 1
        for slot in busy:
            self.n_tokens[slot] += 1
            self.extent[slot] += 1
        return Cache(layers=list(self.layers)), self.mask[:, self.window.columns], positions

    def keep(self, slots: Sequence[int]) -> None:
        """Only these slots remain, in this order."""
        where = torch.tensor(slots, device=self.mask.device)
        for layer in self.layers:
            layer.keys, layer.values = layer.keys[where], layer.values[where]
        self.mask = self.mask[where]
        self.n_tokens = [self.n_tokens[slot] for slot in slots]
        self.extent = [self.extent[slot] for slot in slots]

    def _move_back(self) -> None:
        columns = self.window.columns
        width = columns.stop - columns.start
        for layer in self.layers:
            layer.keys[:, :, :width] = layer.keys[:, :, columns].clone()
            layer.values[:, :, :width] = layer.values[:, :, columns].clone()
        moved = self.mask[:, columns].clone()
        self.mask.zero_()
        self.mask[:, :width] = moved
        self.window.first, self.window.end = 0, width
