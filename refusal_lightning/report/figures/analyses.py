"""The figures of `analyze`, each drawn from its analysis's table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from refusal_lightning.data.labels import REFUSAL, Labels
from refusal_lightning.directions.analysis.stability import ENOUGH
from refusal_lightning.report.figures.canvas import LAYER, new_figure, plain, position_label
from refusal_lightning.report.figures.lines import Line, Marks, line_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class AnalysisTable:
    """What the figure of an analysis is drawn from."""

    rows: Sequence[Row]
    """As they are in its file."""
    position_tokens: Sequence[str]
    """Text of the token at each end-of-instruction position."""
    selected: tuple[int, int] | None
    """Position and layer of the selected candidate, if there is one."""
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    """What is too large for a table."""
    labels: Labels = REFUSAL

    @property
    def positions(self) -> range:
        return range(-len(self.position_tokens), 0)

    def where(self, **values: Any) -> list[Row]:
        """The rows with these values, in their order."""
        return [row for row in self.rows if all(row[key] == value for key, value in values.items())]


def separability_figure(table: AnalysisTable) -> Figure:
    """AUROC by layer, a line per position."""
    keys = ("auroc", "low", "high")
    lines = [
        _line(position_label(p, table.position_tokens), "layer", table.where(position=p), *keys)
        for p in table.positions
    ]
    star = None
    if table.selected is not None:
        position, layer = table.selected
        star = (float(layer), table.where(position=position, layer=layer)[0]["auroc"])
    title = table.labels.named("Separability of held-out {harmful} and {harmless} prompts")
    return line_figure(lines, title, LAYER, "AUROC", Marks(star=star, level=0.5))


def stability_figure(table: AnalysisTable) -> Figure:
    """Of the selected candidate, cosines by the number of prompts; of every candidate where none is, by layer."""
    keys = ("mean", "low", "high")
    if table.selected is None:
        lines = [
            _line(position_label(p, table.position_tokens), "layer", rows, *keys)
            for p in table.positions
            for rows in [table.where(measure="bootstrap", position=p)]
        ]
        ylabel = "cosine with the direction of all"
        return line_figure(lines, "Directions of resampled prompts", LAYER, ylabel, Marks())
    measures = {"subset": "with the direction of all prompts", "split": "between two disjoint draws"}
    of_measure = ((label, table.where(measure=measure)) for measure, label in measures.items())
    lines = [_line(label, "n_harmful", rows, *keys) for label, rows in of_measure if rows]
    title = f"Stability of the direction at position {table.selected[0]}, layer {table.selected[1]}"
    marks = Marks(level=ENOUGH, doubling=True)
    return line_figure(lines, title, "training prompts of each kind", "cosine", marks)


def projection_figure(table: AnalysisTable) -> Figure:
    """Projections at the last position by layer, a line per dataset."""
    if table.selected is None:
        raise ValueError("a projection needs a selected direction")
    lines = [
        _line(plain(f"{rows[0]['prompts']} {rows[0]['dataset']}"), "layer", rows, "mean", "q05", "q95")
        for rows in _by_dataset(table.where(position=-1))
    ]
    title = f"Projection on the direction of position {table.selected[0]}, layer {table.selected[1]}, at position -1"
    return line_figure(lines, title, LAYER, "projection (mean, 5 % to 95 %)", Marks(upright=table.selected[1]))


def _by_dataset(rows: Sequence[Row]) -> Iterator[list[Row]]:
    names = [(row["dataset"], row["split"], row["label"]) for row in rows]
    for name in dict.fromkeys(names):
        yield [row for row, other in zip(rows, names, strict=True) if other == name]


def _line(label: str, x: str, rows: Sequence[Row], middle: str, low: str, high: str) -> Line:
    """A line through some rows, by the columns that it shows."""
    columns = (np.array([row[key] for row in rows]) for key in (middle, low, high))
    return Line(label, [row[x] for row in rows], *columns)


def similarity_figure(table: AnalysisTable) -> Figure:
    """The cosines between all candidates: a square per pair of positions, layers from 0 within each.

    The selected candidate is marked on the diagonal.
    """
    cosines = table.arrays["cosine"]
    n_positions, n_layers = cosines.shape[:2]
    size = n_positions * n_layers
    figure = new_figure(8, 7)
    axes = figure.add_subplot()
    image = axes.imshow(cosines.reshape(size, size), vmin=-1, vmax=1, cmap="RdBu_r", interpolation="nearest")
    for edge in range(n_layers, size, n_layers):
        axes.axhline(edge - 0.5, color="black", linewidth=0.6)
        axes.axvline(edge - 0.5, color="black", linewidth=0.6)
    if table.selected is not None:
        place = (table.selected[0] + n_positions) * n_layers + table.selected[1]
        axes.plot(place, place, marker="*", markersize=11, color="black", linestyle="")
    middles = [n_layers * (i + 0.5) - 0.5 for i in range(n_positions)]
    labels = [position_label(position, table.position_tokens) for position in table.positions]
    axes.set_xticks(middles, labels, rotation=30, ha="right", fontsize="small")
    axes.set_yticks(middles, labels, fontsize="small")
    title = "Cosine between candidates" + ("" if table.selected is None else " (star: selected)")
    axes.set(title=title, xlabel="position, and layers from 0 within it", ylabel="position, and layers within it")
    figure.colorbar(image, ax=axes, label="cosine")
    return figure
