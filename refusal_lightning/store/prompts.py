"""The table of a store's prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from refusal_lightning.store.format.layout import PromptRecord


@dataclass(frozen=True, eq=False)
class Prompts:
    """One entry per prompt in each column, in order of rows."""

    row: np.ndarray
    """Row of the prompt axis, int64."""
    hash: np.ndarray
    n_tokens: np.ndarray
    label: np.ndarray
    split: np.ndarray
    dataset: np.ndarray
    complete: np.ndarray
    """Whether the data are there, bool."""

    def __len__(self) -> int:
        return len(self.row)

    def where(self, **values: Any) -> np.ndarray:
        """Which prompts' columns have these values, bool: ``where(label="harmful", complete=True)``."""
        keep = np.ones(len(self), dtype=bool)
        for column, value in values.items():
            keep &= getattr(self, column) == value
        return keep

    def hashes(self, **where: Any) -> list[str]:
        """Hashes of the prompts whose columns have these values: ``hashes(label="harmful", complete=True)``."""
        return [str(h) for h in self.hash[self.where(**where)]]

    @classmethod
    def of(cls, records: Sequence[PromptRecord | None], rows: Sequence[int], complete: Sequence[bool]) -> Prompts:
        """The table of these records."""

        def text(field: str) -> np.ndarray:
            return np.array([getattr(record, field) for record in records], dtype=object)

        return cls(
            row=np.array(rows, dtype=np.int64),
            hash=text("hash"),
            n_tokens=np.array([record.n_tokens for record in records if record], dtype=np.int64),
            label=text("label"),
            split=text("split"),
            dataset=text("dataset"),
            complete=np.array(complete, dtype=bool),
        )
