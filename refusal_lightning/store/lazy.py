"""An array of a store, indexed as numpy indexes: only the chunks that are asked for are read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Index = int | slice | Sequence[int] | np.ndarray


class LazyArray:
    """``array[rows, layers, ...]`` reads what the first two indices name; further ones cut what was read.

    Rows and layers are places along the axes, not prompt hashes or layer numbers (a store may hold some layers only).
    """

    def __init__(
        self, shape: tuple[int, ...], dims: Sequence[str], read: Callable[[np.ndarray, Any], np.ndarray]
    ) -> None:
        """``read(rows, layer places or None)`` gives whole rows."""
        self.shape, self.dims, self._read = shape, tuple(dims), read

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        axes = ", ".join(f"{name}: {size}" for name, size in zip(self.dims, self.shape, strict=True))
        return f"LazyArray({axes})"

    def __getitem__(self, index: Any) -> np.ndarray:
        """Float32. Raises IndexError as numpy does, StoreError for damaged data."""
        given = _without_ellipsis(index if isinstance(index, tuple) else (index,), self.ndim)
        has_layers = "layer" in self.dims
        rows, drop_row = _places(given[0], self.shape[0])
        layers, drop_layer = (None, False) if not has_layers else _places(given[1], self.shape[1])
        out = self._read(rows, layers)
        rest = given[2:] if has_layers else given[1:]
        kept: tuple[Any, ...] = (0 if drop_row else slice(None),)
        if has_layers:
            kept += (0 if drop_layer else slice(None),)
        for axis, item in reversed(list(enumerate(rest, start=len(kept)))):
            out = out[(slice(None),) * axis + (item,)]  # axis by axis: lists select along their own axis only
        return np.asarray(out[kept])


def _without_ellipsis(index: tuple[Any, ...], ndim: int) -> tuple[Any, ...]:
    if any(item is Ellipsis for item in index):
        at = next(i for i, item in enumerate(index) if item is Ellipsis)
        index = (*index[:at], *[slice(None)] * (ndim - len(index) + 1), *index[at + 1 :])
    if len(index) > ndim:
        raise IndexError(f"{len(index)} indices for an array of {ndim} axes")
    return (*index, *[slice(None)] * (ndim - len(index)))


def _places(item: Any, size: int) -> tuple[np.ndarray, bool]:
    """(places along an axis, whether the axis is dropped)."""
    chosen = np.arange(size)[item]
    return np.atleast_1d(chosen), np.ndim(chosen) == 0
