"""What an analysis finds, and what all of them come to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from refusal_lightning.data.labels import REFUSAL, Labels
from refusal_lightning.io.notebook import frame
from refusal_lightning.loggers.measured import Curve
from refusal_lightning.report.figures.analyses import AnalysisTable

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True, eq=False)
class Analysis:
    """A table, and one line that says the most."""

    headline: str
    rows: list[dict[str, Any]]
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    """What is too large for a table."""
    made_from: Mapping[str, Any] = field(default_factory=dict)
    """What it depends on beside what all analyses do."""
    note: str | None = None
    """What is to be known before the numbers are read."""
    curves: Mapping[str, Curve] = field(default_factory=dict)
    """What loggers show of it (``curves_of``)."""

    @property
    def frame(self) -> DataFrame:
        """The table as a DataFrame. Raises UserError without pandas."""
        return frame(self.rows, list(self.rows[0]) if self.rows else [])


def curves_of(rows: Sequence[Mapping[str, Any]], value: str, names: Sequence[str], by: str) -> dict[str, Curve]:
    """A column of a table as curves over another one, ``by``: one for each value of the columns that name it."""
    curves: dict[str, dict[int, float]] = {}
    for row in rows:
        parts = (row[name] if isinstance(row[name], str) else f"{name}_{row[name]}" for name in names)
        curves.setdefault("/".join([value, *parts]), {})[row[by]] = row[value]
    return dict(curves)


@dataclass(frozen=True, eq=False)
class AnalysisResult:
    """What `analyze` came to."""

    analyses: Mapping[str, Analysis]
    """By name, in the order asked for."""
    position_tokens: Sequence[str]
    """Text of the token at each end-of-instruction position."""
    selected: tuple[int, int] | None
    """Position and layer of the selected candidate, if there is one."""
    made_from: Mapping[str, Any]
    """What all of them depend on."""
    labels: Labels = REFUSAL
    """Of the two kinds of prompts."""

    def table(self, name: str) -> AnalysisTable:
        """What the figure of an analysis is drawn from (``report.figures.registry``)."""
        found = self.analyses[name]
        return AnalysisTable(found.rows, self.position_tokens, self.selected, found.arrays, self.labels)
