"""``rl.register``: parts of your own, from a notebook."""

from __future__ import annotations

import importlib
import uuid
from typing import Any

from refusal_lightning.errors import UserError
from refusal_lightning.plugins import of_session
from refusal_lightning.registry import Registry

REGISTRIES = {
    "analysis": "refusal_lightning.stages.analyze.registry:ANALYSES",
    "check": "refusal_lightning.doctor.registry:CHECKS",
    "engine": "refusal_lightning.models.engines.registry:ENGINES",
    "estimator": "refusal_lightning.directions.estimators.registry:ESTIMATORS",
    "family": "refusal_lightning.models.families:FAMILIES",
    "figure": "refusal_lightning.report.figures.registry:FIGURES",
    "intervention": "refusal_lightning.interventions.registry:INTERVENTIONS",
    "judge": "refusal_lightning.judges.registry:JUDGES",
    "logger": "refusal_lightning.loggers.registry:LOGGERS",
    "loss_set": "refusal_lightning.data.loss_sets:LOSS_SETS",
}
"""The registries by the kind of their entries (docs/plugins.md says what an entry is)."""


def register(kind: str, name: str, spec: Any) -> None:
    """Add an entry of your own, which settings then name: ``rl.register("judge", "polite", JudgeSpec(...))``.

    ``kind`` is judge, intervention, estimator, analysis, figure, loss_set, logger, check, engine or family; ``spec`` is
    what its registry holds (docs/plugins.md). A ``name`` of yours may be registered again, as when a cell is run again:
    the new one counts, and nothing that was made with the old one is used for it. Raises UserError for an unknown kind
    and for a name of the package's own.
    """
    if kind not in REGISTRIES:
        raise UserError(f"there is no kind {kind!r}; there are {', '.join(REGISTRIES)}")
    module, _, attribute = REGISTRIES[kind].partition(":")
    registry: Registry[Any] = getattr(importlib.import_module(module), attribute)
    own = f"{kind} {name}"
    if registry.origin(name).get("plugin") == own:
        registry.withdraw(name)
    with of_session(own, uuid.uuid4().hex):
        registry.register(name, spec)
