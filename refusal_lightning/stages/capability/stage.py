"""capability: tasks of lm-evaluation-harness on the intervened model (paper, section 4.3)."""

from __future__ import annotations

import logging
import time
from dataclasses import asdict
from typing import Any

from refusal_lightning.config import CapabilityConfig, ModelConfig, RunsConfig, TrainerConfig
from refusal_lightning.inputs.model import open_model
from refusal_lightning.loggers.measured import Measured
from refusal_lightning.loggers.registry import require_loggers
from refusal_lightning.loggers.stage_log import stage_log
from refusal_lightning.runs.folder import RunFolder
from refusal_lightning.runs.made_from import working
from refusal_lightning.stages.capability.artifacts import (
    known_scores,
    made_from,
    prepare_folder,
    record_of,
    write_scores,
)
from refusal_lightning.stages.capability.inputs import CapabilityInputs
from refusal_lightning.stages.capability.scores import CapabilityResult, measure_capability, table

log = logging.getLogger(__name__)


def capability(
    model: ModelConfig, trainer: TrainerConfig, runs: RunsConfig, capability: CapabilityConfig
) -> CapabilityResult:
    """Run the tasks under each intervention with the run's direction, and write one file of scores for each.

    Activation addition subtracts the direction, as on harmful prompts. What is done already is not done again.
    """
    started = time.perf_counter()
    require_loggers(trainer.logger)
    inputs = CapabilityInputs.open(open_model(model, trainer), trainer, runs, capability)
    run = RunFolder(runs.root, inputs.chat.alias)
    with working(run, "capability", inputs.chat.identity, model.name, direction=inputs.selected.digest):
        wanted = made_from(inputs)
        known = known_scores(run, wanted)
        prepare_folder(run, wanted, inputs)
        sections: dict[str, Any] = {"model": model, "capability": capability}
        with stage_log(trainer.logger, run.log_place("capability"), {**sections, "trainer": trainer}) as logged:
            result = measure_capability(
                inputs, run.journals, known, lambda name, scores: write_scores(run, name, scores, wanted[name])
            )
            if not result.n_computed:
                log.info("capability: nothing to compute, all scores are there")
            config = {name: asdict(section) for name, section in sections.items()}
            run.record_stage("capability", {"config": config, **record_of(result)}, time.perf_counter() - started)
            logged.write(_measured(result))
    log.info(table(result.scores))
    log.info(f"capability: wrote {run.path / 'capability'}")
    return result


def _measured(result: CapabilityResult) -> Measured:
    """For loggers: each metric of each task and intervention, and questions per second where any were asked now."""
    scores = {
        f"{task}/{metric}/{intervention}": value
        for intervention, entry in result.scores.items()
        for task, metrics in entry["tasks"].items()
        for metric, value in metrics.items()
    }
    speed = {"speed/questions_per_s": result.n_questions / result.seconds} if result.seconds else {}
    return Measured({**scores, **speed})
