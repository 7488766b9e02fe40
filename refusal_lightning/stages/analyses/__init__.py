"""The registry of offline analyses: one function per question, from the store's activations to a table and a plot."""

from __future__ import annotations

from collections.abc import Callable

from refusal_lightning.stages.analyses.material import Analysis, Material
from refusal_lightning.stages.analyses.projection import analyse_projection
from refusal_lightning.stages.analyses.separability import analyse_separability
from refusal_lightning.stages.analyses.similarity import analyse_similarity
from refusal_lightning.stages.analyses.stability import analyse_stability

ANALYSES: dict[str, Callable[[Material], Analysis]] = {
    "separability": analyse_separability,
    "similarity": analyse_similarity,
    "stability": analyse_stability,
    "projection": analyse_projection,
}
"""By the name that configurations use."""
