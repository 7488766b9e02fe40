"""Lines with a band around each, for the figures of analyses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from refusal_lightning.report.figures.canvas import new_figure, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class Line:
    """A line and the band around it; NaN leaves a gap."""

    label: str
    """As matplotlib reads it (see ``plain``)."""
    x: Sequence[float]
    middle: Float[np.ndarray, " x"]
    low: Float[np.ndarray, " x"]
    high: Float[np.ndarray, " x"]


@dataclass(frozen=True)
class Marks:
    """What is marked beside the lines."""

    star: tuple[float, float] | None = None
    """The selected candidate, at (x, y)."""
    upright: float | None = None
    """The selected candidate's x."""
    level: float | None = None
    """A y to compare with."""
    doubling: bool = False
    """Space x by its logarithm, and name each value."""


def line_figure(lines: Sequence[Line], title: str, xlabel: str, ylabel: str, marks: Marks) -> Figure:
    """Lines with their bands."""
    figure = new_figure(8, 4.5)
    axes = figure.add_subplot()
    for line in lines:
        (drawn,) = axes.plot(line.x, line.middle, marker=".", label=line.label)
        axes.fill_between(line.x, line.low, line.high, color=drawn.get_color(), alpha=0.15, linewidth=0)
    _mark(axes, marks)
    if marks.doubling:
        ticks = sorted({x for line in lines for x in line.x})
        axes.set_xscale("log", base=2)
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
    axes.set(title=plain(title), xlabel=xlabel, ylabel=ylabel)
    axes.legend(fontsize="small", loc="best")
    return figure


def _mark(axes: Axes, marks: Marks) -> None:
    if marks.level is not None:
        axes.axhline(marks.level, color="black", linestyle="--", linewidth=1)
    if marks.upright is not None:
        axes.axvline(marks.upright, color="black", linestyle=":", linewidth=1, label="selected")
    if marks.star is not None:
        axes.plot(*marks.star, marker="*", markersize=14, color="black", linestyle="", label="selected")
