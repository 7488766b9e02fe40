"""The registry of analyses: one function per question, from the store's activations to a table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from refusal_lightning.registry import Registry
from refusal_lightning.stages.analyze.analysis import Analysis
from refusal_lightning.stages.analyze.inputs import AnalysisInputs
from refusal_lightning.stages.analyze.projection import analyse_projection
from refusal_lightning.stages.analyze.separability import analyse_separability
from refusal_lightning.stages.analyze.similarity import analyse_similarity
from refusal_lightning.stages.analyze.stability import analyse_stability


@dataclass(frozen=True)
class AnalysisSpec:
    """An analysis, and what it needs."""

    compute: Callable[[AnalysisInputs], Analysis]
    """Without files and messages."""
    figure: str | None = None
    """The figure that its table is drawn as, by name; None: none."""
    needs_direction: bool = False
    """Of the selected candidate: without one it cannot be made."""
    needs_datasets: bool = False
    """Of all prompts that the configuration caches, not only those drawn."""


ANALYSES = Registry(
    "analysis",
    {
        "separability": AnalysisSpec(analyse_separability, "separability"),
        "similarity": AnalysisSpec(analyse_similarity, "similarity"),
        "stability": AnalysisSpec(analyse_stability, "stability"),
        "projection": AnalysisSpec(analyse_projection, "projection", needs_direction=True, needs_datasets=True),
    },
)
"""By the name that configurations use, which is also that of its files."""
