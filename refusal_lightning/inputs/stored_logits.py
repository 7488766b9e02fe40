"""The baseline's stored next-token logits, a piece at a time: those of all prompts would not fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from refusal_lightning.store import ActivationStore

NAME = "next_token_logits"
PIECE_BYTES = 32 << 20
"""Float32 logits in memory at a time; what is made of them, in float64, takes a few times as much."""
KEPT_BYTES = 128 << 20
"""Logits that are read over and over stay in memory up to here."""


class StoredLogits:
    """Logits of prompts, read when asked for: ``logits[[3, 1]]`` is ``[prompt, vocab]``, float32."""

    def __init__(self, store: ActivationStore, hashes: Sequence[str]) -> None:
        self._store, self._rows = store, store.rows(hashes)
        self._row_bytes = 4 * (store.layout.vocab_size or 1)
        self._kept: Tensor | None = None

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, places: Sequence[int]) -> Float[Tensor, "prompt vocab"]:
        if len(self) * self._row_bytes > KEPT_BYTES:
            return self._read(self._rows[list(places)])
        if self._kept is None:
            self._kept = self._read(self._rows)
        return self._kept[list(places)]

    def each(self, of: Callable[[Float[Tensor, "prompt vocab"]], Float[Tensor, " prompt"]]) -> Float[np.ndarray, " p"]:
        """A number for every prompt, in order, float64, from its own logits alone: read in the order of the rows."""
        order = np.argsort(self._rows, kind="stable")
        found = np.empty(len(self), dtype=np.float64)
        at_once = max(1, PIECE_BYTES // self._row_bytes)
        for start in range(0, len(order), at_once):
            places = order[start : start + at_once]
            found[places] = of(self._read(self._rows[places])).numpy()
        return found

    def pieces(self, at_once: int) -> Iterator[Float[Tensor, "prompt vocab"]]:
        """So many prompts' logits at a time, in order."""
        for start in range(0, len(self), at_once):
            yield self._read(self._rows[start : start + at_once])

    def _read(self, rows: np.ndarray) -> Float[Tensor, "prompt vocab"]:
        return torch.from_numpy(self._store.read(NAME, rows))
