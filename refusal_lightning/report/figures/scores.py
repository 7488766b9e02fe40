"""The authors' three plots: each score by layer, a line per eoi position."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from refusal_lightning.data.labels import REFUSAL, Labels
from refusal_lightning.directions.selection.candidates import CandidateScores
from refusal_lightning.report.figures.canvas import LAYER, new_figure, position_label

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class ScoredCandidates:
    """What the figures of `select` are drawn from. Candidates without a score leave a gap."""

    scores: CandidateScores
    position_tokens: Sequence[str]
    """Text of the token at each end-of-instruction position."""
    baseline: Mapping[str, float]
    """Mean refusal scores without an intervention, ``harmful`` and ``harmless``."""
    chosen: tuple[int, int] | None
    """Position and layer of the candidate that was chosen."""
    labels: Labels = REFUSAL


def bypass_figure(of: ScoredCandidates) -> Figure:
    """Bypass scores."""
    level = of.baseline["harmful"]
    return _score_figure(of, of.scores.bypass, "Ablation, {harmful}", "bypass score (log-odds)", level)


def induce_figure(of: ScoredCandidates) -> Figure:
    """Induce scores."""
    level = of.baseline["harmless"]
    return _score_figure(of, of.scores.induce, "Addition, {harmless}", "induce score (log-odds)", level)


def kl_figure(of: ScoredCandidates) -> Figure:
    """KL scores."""
    return _score_figure(of, of.scores.kl, "Ablation, {harmless}", "KL score (nats)", 0.0)


def _score_figure(
    of: ScoredCandidates, values: Float[np.ndarray, "position layer"], title: str, label: str, level: float
) -> Figure:
    figure = new_figure(8, 4.5)
    axes = figure.add_subplot()
    n_positions, n_layers = values.shape
    for position in range(-n_positions, 0):
        label_of_position = position_label(position, of.position_tokens)
        axes.plot(range(n_layers), values[position], marker=".", label=label_of_position)
    axes.axhline(level, color="black", linestyle="--", linewidth=1, label="baseline")
    if of.chosen is not None:
        axes.plot(
            of.chosen[1],
            values[of.chosen],
            marker="*",
            markersize=14,
            color="black",
            linestyle="",
            label="selected",
        )
    axes.set(title=of.labels.named(title), xlabel=LAYER, ylabel=label)
    axes.legend(fontsize="small", loc="best")
    return figure


SCORE_FIGURES: dict[str, Callable[[ScoredCandidates], Figure]] = {
    "bypass": bypass_figure,
    "induce": induce_figure,
    "kl": kl_figure,
}
"""By the score that each shows."""
