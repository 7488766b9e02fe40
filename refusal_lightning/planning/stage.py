"""plan: what a run will take, without its weights."""

from __future__ import annotations

import logging
from pathlib import Path

from refusal_lightning.config import (
    CacheConfig,
    DataConfig,
    EvaluateConfig,
    ModelConfig,
    PlanConfig,
    SelectConfig,
    StoreConfig,
    TrainerConfig,
)
from refusal_lightning.directions.estimators.registry import ESTIMATORS
from refusal_lightning.inputs.model import open_model
from refusal_lightning.interventions.registry import INTERVENTIONS
from refusal_lightning.io.files import writable_folder
from refusal_lightning.io.serialization import write_json
from refusal_lightning.planning.describe import describe
from refusal_lightning.planning.inputs import PlanInputs, Sections
from refusal_lightning.planning.plan import make_plan

log = logging.getLogger(__name__)


def plan(
    model: ModelConfig,
    data: DataConfig,
    store: StoreConfig,
    trainer: TrainerConfig,
    cache: CacheConfig,
    select: SelectConfig,
    evaluate: EvaluateConfig,
    plan: PlanConfig,
) -> None:
    """Print, and write if asked, what each stage will take and which strategy fits. No weights are loaded."""
    ESTIMATORS.require(select.estimators, "select.estimators")
    INTERVENTIONS.require(evaluate.interventions, "evaluate.interventions")
    if plan.out is not None:
        writable_folder(Path(plan.out).parent, "plan.out")
    inputs = PlanInputs.open(open_model(model), Sections(model, data, store, trainer, cache, select, evaluate, plan))
    made = make_plan(inputs)
    for line in describe(made):
        log.info(line)
    if plan.out is not None:
        write_json(Path(plan.out), made.to_json())
