"""What is asked of one array, as rows and indices of it: prompts, layers and positions looked up and checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from refusal_lightning.errors import UserError
from refusal_lightning.store import moments
from refusal_lightning.store.format.chunking import ArraySpec
from refusal_lightning.store.format.layout import LOGITS, Layout
from refusal_lightning.store.format.rows import RowTable
from refusal_lightning.store.reading import StoredArray, read_rows


@dataclass(frozen=True)
class Query:
    """Rows, layers and positions of one array."""

    array: StoredArray
    rows: np.ndarray
    """[row] int64 of the array's first axis, in the order asked for; [row, position] of single tokens of prompts."""
    layers: list[int]
    """Indices along the layer axis; [0] for the logits, which have none."""
    positions: list[int] | None = None
    """Indices along the position axis; None: all of them, or there is no such axis."""

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of one row with these layers and all positions."""
        spec = self.array.spec
        return (len(self.layers), *spec.shape[1:]) if spec.has_layers else spec.shape

    def read(self, dtype: np.dtype[Any]) -> np.ndarray:
        """The rows: [prompt, layer, position, d_model], [token, layer, d_model] or [prompt, vocab]."""
        out = read_rows(self.array, self.rows.reshape(-1), self.layers, dtype)
        if self.rows.ndim == 2:
            return out.reshape(*self.rows.shape, *self.row_shape).swapaxes(1, 2)
        out = out.reshape(len(out), *self.row_shape)
        return out if self.positions is None else out[:, :, self.positions]

    def mean(self) -> np.ndarray:
        """The mean over rows, float64: what ``read`` gives without its first axis."""
        if self.rows.ndim == 2:
            return np.stack([moments.mean(self.array, tokens, self.layers) for tokens in self.rows.T], axis=1)
        out = moments.mean(self.array, self.rows, self.layers).reshape(self.row_shape)
        return out if self.positions is None else out[:, self.positions]

    def covariance(self, ddof: int) -> np.ndarray:
        """Covariance over rows, float64: [layer, position, d_model, d_model] or [layer, d_model, d_model]."""
        spec = self.array.spec
        if spec.name == LOGITS:
            raise UserError(f"store {self.array.backend.url}: there is no covariance of {LOGITS}, only of activations")
        d_model = spec.shape[-1]
        result = moments.covariance(self.array, self.rows, self.layers, spec.values // d_model, ddof)
        return result.reshape(*self.row_shape, d_model)


def make_query(
    array: StoredArray,
    layout: Layout,
    table: RowTable,
    rows: Sequence[int] | np.ndarray,
    layers: Sequence[int] | None = None,
    positions: Sequence[int] | None = None,
) -> Query:
    """A query by rows of the prompt axis, layer numbers and positions from the prompts' ends (None: all).

    Raises IndexError for rows of no prompt, UserError for layers and positions that are not there.
    """
    spec, url = array.spec, array.backend.url
    checked = prompt_rows(table, rows, url)
    indices = _layer_indices(spec, layout, layers, url)
    if not spec.per_token:
        places = None if positions is None else _position_indices(spec, layout, positions, url)
        return Query(array, checked, indices, places)
    if positions is None:
        return Query(array, table.token_rows(checked), indices)
    return Query(array, _token_rows_at(table, checked, positions, url), indices)


def prompt_rows(table: RowTable, rows: Sequence[int] | np.ndarray, url: str) -> np.ndarray:
    """[prompt] int64. Raises IndexError for rows that belong to no prompt."""
    checked = np.asarray(rows, dtype=np.int64).reshape(-1)
    inside = (checked >= 0) & (checked < len(table.records))
    if not inside.all() or not table.n_tokens[checked].all():
        raise IndexError(f"store {url}: rows that belong to no prompt were asked for")
    return checked


def _layer_indices(spec: ArraySpec, layout: Layout, layers: Sequence[int] | None, url: str) -> list[int]:
    if layers is None:
        return list(range(spec.n_layers))
    if not spec.has_layers:
        raise UserError(f"{spec.name} has no layers")
    absent = [layer for layer in layers if layer not in layout.layers]
    if absent:
        raise UserError(f"store {url} holds no layers {absent}; there are {list(layout.layers)}")
    return [layout.layers.index(layer) for layer in layers]


def _position_indices(spec: ArraySpec, layout: Layout, positions: Sequence[int], url: str) -> list[int]:
    if "position" not in spec.dims:
        raise UserError(f"{spec.name} has no positions")
    held = list(layout.positions)
    absent = [position for position in positions if position not in held]
    if absent:
        raise UserError(f"store {url} holds no positions {absent}; there are {held}")
    return [held.index(position) for position in positions]


def _token_rows_at(table: RowTable, rows: np.ndarray, positions: Sequence[int], url: str) -> np.ndarray:
    """[prompt, position] int64: rows of the token axis of positions counted from each prompt's end."""
    n_tokens = table.n_tokens[rows]
    shortest = int(n_tokens.min()) if len(rows) else None
    for position in positions:
        if position >= 0 or (shortest is not None and position < -shortest):
            raise UserError(
                f"position {position} was asked for; positions are negative, and the shortest of the prompts in "
                f"store {url} has {shortest} tokens"
            )
    return (table.token_starts[rows] + n_tokens)[:, None] + np.asarray(positions, np.int64)
