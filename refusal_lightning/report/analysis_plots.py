"""The plots of `analyze`: lines with a band, and the cosines between all candidates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from refusal_lightning.report.figure import new_figure, plain, png, position_label


@dataclass(frozen=True, eq=False)
class Line:
    """A line and the band around it; NaN leaves a gap."""

    label: str
    x: Sequence[float]
    middle: Float[np.ndarray, " x"]
    low: Float[np.ndarray, " x"]
    high: Float[np.ndarray, " x"]


def plot_lines(
    lines: Sequence[Line],
    title: str,
    xlabel: str,
    ylabel: str,
    *,
    star: tuple[float, float] | None = None,
    upright: float | None = None,
    level: float | None = None,
    doubling: bool = False,
) -> bytes:
    """PNG of lines with bands; ``star`` marks the selected candidate at (x, y), ``upright`` its x, ``level`` a y.

    ``doubling`` spaces x by its logarithm and names each value.
    """
    figure = new_figure(8, 4.5)
    axes = figure.add_subplot()
    for line in lines:
        (drawn,) = axes.plot(line.x, line.middle, marker=".", label=plain(line.label))
        axes.fill_between(line.x, line.low, line.high, color=drawn.get_color(), alpha=0.15, linewidth=0)
    if level is not None:
        axes.axhline(level, color="black", linestyle="--", linewidth=1)
    if upright is not None:
        axes.axvline(upright, color="black", linestyle=":", linewidth=1, label="selected")
    if star is not None:
        axes.plot(*star, marker="*", markersize=14, color="black", linestyle="", label="selected")
    if doubling:
        ticks = sorted({x for line in lines for x in line.x})
        axes.set_xscale("log", base=2)
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
    axes.set(title=plain(title), xlabel=xlabel, ylabel=ylabel)
    axes.legend(fontsize="small", loc="best")
    return png(figure)


def plot_cosines(
    cosines: Float[np.ndarray, "position layer position layer"],
    position_tokens: Sequence[str],
    selected: tuple[int, int] | None,
) -> bytes:
    """PNG of the cosines between all candidates: a square per pair of positions, layers from 0 within each.

    ``selected`` is a (position, layer), marked on the diagonal.
    """
    n_positions, n_layers = cosines.shape[:2]
    size = n_positions * n_layers
    figure = new_figure(8, 7)
    axes = figure.add_subplot()
    image = axes.imshow(cosines.reshape(size, size), vmin=-1, vmax=1, cmap="RdBu_r", interpolation="nearest")
    for edge in range(n_layers, size, n_layers):
        axes.axhline(edge - 0.5, color="black", linewidth=0.6)
        axes.axvline(edge - 0.5, color="black", linewidth=0.6)
    if selected is not None:
        place = (selected[0] + n_positions) * n_layers + selected[1]
        axes.plot(place, place, marker="*", markersize=11, color="black", linestyle="")
    middles = [n_layers * (i + 0.5) - 0.5 for i in range(n_positions)]
    labels = [position_label(position, position_tokens) for position in range(-n_positions, 0)]
    axes.set_xticks(middles, labels, rotation=30, ha="right", fontsize="small")
    axes.set_yticks(middles, labels, fontsize="small")
    title = "Cosine between candidates" + ("" if selected is None else " (star: selected)")
    axes.set(title=title, xlabel="position, and layers from 0 within it", ylabel="position, and layers within it")
    figure.colorbar(image, ax=axes, label="cosine")
    return png(figure)
