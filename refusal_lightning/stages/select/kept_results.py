"""Where derived results are kept: in the store, in the run's folder where the store may only be read, or in memory."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from refusal_lightning.store import ActivationStore, results
from refusal_lightning.store.backend.local import LocalBackend
from refusal_lightning.store.backend.protocol import Backend

log = logging.getLogger(__name__)

Result = tuple[dict[str, np.ndarray], dict[str, Any]]


class Results(Protocol):
    """Derived arrays with attributes, by key."""

    def found(self, key: str) -> list[Result]:
        """(arrays, attrs) under a key, of each place that has it."""

    def find_place(self) -> None:
        """See where results can be saved, before they are computed."""

    def save(self, key: str, arrays: Mapping[str, np.ndarray], attrs: Mapping[str, Any]) -> None:
        """Keep them under a key, in place of what was there."""


class MemoryResults:
    """Results of this process alone."""

    def __init__(self) -> None:
        self._saved: dict[str, Result] = {}

    def found(self, key: str) -> list[Result]:
        return [self._saved[key]] if key in self._saved else []

    def find_place(self) -> None:
        """There is always one."""

    def save(self, key: str, arrays: Mapping[str, np.ndarray], attrs: Mapping[str, Any]) -> None:
        self._saved[key] = ({name: np.array(values) for name, values in arrays.items()}, dict(attrs))


class KeptResults:
    """Results by key. A store that others own holds what they computed, and the folder what this run adds to it."""

    def __init__(self, store: ActivationStore, folder: Path) -> None:
        self.store, self.folder = store, folder
        self._place: Backend | ActivationStore | None = None

    def found(self, key: str) -> list[Result]:
        """(arrays, attrs) under a key in the store and in the folder, as far as they are there. Raises StoreError."""
        both = (self.store.load_result(key), results.load(LocalBackend(self.folder), key))
        return [result for result in both if result is not None]

    def find_place(self) -> None:
        """Before the work: see whether the store can be written, and say where results go if it cannot."""
        if self._place is None:
            reason = self.store.why_not_writable()
            self._place = self.store if reason is None else LocalBackend(self.folder)
            if reason is not None:
                log.info(
                    f"store {self.store.url} cannot be written, so what is computed is kept in {self.folder}, and "
                    f"found there again ({reason})"
                )

    def save(self, key: str, arrays: Mapping[str, np.ndarray], attrs: Mapping[str, Any]) -> None:
        """Keep small arrays under a key, in place of what was there. Raises UserError and StoreError."""
        self.find_place()
        if isinstance(self._place, ActivationStore):
            self._place.save_result(key, arrays, attrs)
        else:
            results.save(LocalBackend(self.folder), key, arrays, attrs)
