"""The registry of figures: a function from a result to a matplotlib figure, a caption, and the result it is of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from refusal_lightning.registry import Registry
from refusal_lightning.report.figures.analyses import (
    AnalysisTable,
    projection_figure,
    separability_figure,
    similarity_figure,
    stability_figure,
)
from refusal_lightning.report.figures.canvas import png
from refusal_lightning.report.figures.scores import ScoredCandidates, bypass_figure, induce_figure, kl_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class FigureSpec:
    """A figure that a result can be drawn as."""

    draw: Callable[[Any], Figure]
    """From a result of the kind ``of``."""
    of: type
    """ScoredCandidates: one of `select`, drawn after each and shown in the report. AnalysisTable: one of `analyze`,
    drawn where an analysis names it."""
    caption: str
    """Beneath it in the report; ``{harmful}`` and ``{harmless}`` stand for the two kinds of prompts."""


FIGURES = Registry(
    "figure",
    {
        "ablation_scores": FigureSpec(
            bypass_figure,
            ScoredCandidates,
            "Bypass scores: mean refusal score on {harmful} prompts when the candidate is ablated.",
        ),
        "actadd_scores": FigureSpec(
            induce_figure,
            ScoredCandidates,
            "Induce scores: mean refusal score on {harmless} prompts when the candidate is added at its layer.",
        ),
        "kl_div_scores": FigureSpec(
            kl_figure,
            ScoredCandidates,
            "KL scores: how far ablating the candidate moves the next token on {harmless} prompts.",
        ),
        "separability": FigureSpec(
            separability_figure,
            AnalysisTable,
            "Separability: how well each candidate tells held-out {harmful} from {harmless} prompts.",
        ),
        "similarity": FigureSpec(
            similarity_figure, AnalysisTable, "Similarity: the cosine between every two candidates."
        ),
        "stability": FigureSpec(
            stability_figure, AnalysisTable, "Stability: the direction of resampled and of fewer training prompts."
        ),
        "projection": FigureSpec(
            projection_figure, AnalysisTable, "Projection: how far along the selected direction the prompts lie."
        ),
    },
)
"""By the name of the file that holds it; the first three names are the authors'."""


def figures_of(kind: type) -> dict[str, FigureSpec]:
    """The figures that are drawn from results of a kind."""
    return {name: spec for name, spec in FIGURES.items() if spec.of is kind}


def draw_all(result: Any) -> dict[str, bytes]:
    """PNG of every figure of this kind of result, by name."""
    return {name: png(spec.draw(result)) for name, spec in figures_of(type(result)).items()}
