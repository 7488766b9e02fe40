"""The authors' three plots: each score by layer, a line per eoi position."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from refusal_lightning.directions.selection.candidates import CandidateScores
from refusal_lightning.report.figure import new_figure, png, position_label


def plot_scores(
    scores: CandidateScores,
    position_tokens: Sequence[str],
    baseline: Mapping[str, float],
    chosen: tuple[int, int] | None,
) -> dict[str, bytes]:
    """PNG images by the authors' names: ablation_scores, actadd_scores, kl_div_scores.

    ``baseline`` has the mean refusal scores ``harmful`` and ``harmless``; ``chosen`` is a (position, layer).
    Candidates without a score leave a gap.
    """
    plots = {
        "ablation_scores": (
            scores.refusal_score,
            "bypass score (log-odds)",
            "Ablation, harmful",
            baseline["harmful"],
        ),
        "actadd_scores": (
            scores.steering_score,
            "induce score (log-odds)",
            "Addition, harmless",
            baseline["harmless"],
        ),
        "kl_div_scores": (scores.kl_div_score, "KL score (nats)", "Ablation, harmless", 0.0),
    }
    return {
        name: png(_line_plot(values, position_tokens, title, label, level, chosen))
        for name, (values, label, title, level) in plots.items()
    }


def _line_plot(
    values: Float[np.ndarray, "position layer"],
    position_tokens: Sequence[str],
    title: str,
    label: str,
    level: float,
    chosen: tuple[int, int] | None,
) -> Figure:
    figure = new_figure(8, 4.5)
    axes = figure.add_subplot()
    n_positions, n_layers = values.shape
    for position in range(-n_positions, 0):
        label_of_position = position_label(position, position_tokens)
        axes.plot(range(n_layers), values[position], marker=".", label=label_of_position)
    axes.axhline(level, color="black", linestyle="--", linewidth=1, label="baseline")
    if chosen is not None:
        axes.plot(
            chosen[1],
            values[chosen],
            marker="*",
            markersize=14,
            color="black",
            linestyle="",
            label="selected",
        )
    axes.set(title=title, xlabel="layer (resid_pre)", ylabel=label)
    axes.legend(fontsize="small", loc="best")
    return figure
