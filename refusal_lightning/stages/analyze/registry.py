"""The registry of offline analyses: one function per question, from the store's activations to a table and a plot."""

from __future__ import annotations

from collections.abc import Callable

from refusal_lightning.stages.analyze.analysis import Analysis, AnalysisInputs
from refusal_lightning.stages.analyze.projection import analyse_projection
from refusal_lightning.stages.analyze.separability import analyse_separability
from refusal_lightning.stages.analyze.similarity import analyse_similarity
from refusal_lightning.stages.analyze.stability import analyse_stability

ANALYSES: dict[str, Callable[[AnalysisInputs], Analysis]] = {
    "separability": analyse_separability,
    "similarity": analyse_similarity,
    "stability": analyse_stability,
    "projection": analyse_projection,
}
"""By the name that configurations use."""
