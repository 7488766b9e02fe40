"""evaluate: completions and loss under each intervention, judged and tabulated."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from refusal_lightning.config import DataConfig, EvaluateConfig, ModelConfig, RunsConfig, TrainerConfig
from refusal_lightning.distributed.launch import distributed_stage
from refusal_lightning.inputs.evaluation_sets import EvaluationSet
from refusal_lightning.inputs.model import open_model
from refusal_lightning.inputs.prompt_warnings import far_longer
from refusal_lightning.io.console import is_main_process
from refusal_lightning.judges.config import JudgeSettings
from refusal_lightning.loggers.registry import require_loggers
from refusal_lightning.loggers.stage_log import stage_log
from refusal_lightning.report.html import write_report
from refusal_lightning.report.summary import Summary, terminal_table
from refusal_lightning.runs.folder import RunFolder
from refusal_lightning.runs.made_from import working
from refusal_lightning.stages.evaluate.artifacts import record_of, write_evaluation
from refusal_lightning.stages.evaluate.evaluation import EvaluationResult, evaluate_direction
from refusal_lightning.stages.evaluate.inputs import EvaluationInputs
from refusal_lightning.stages.evaluate.measured import measured

log = logging.getLogger(__name__)


@distributed_stage
def evaluate(
    model: ModelConfig,
    data: DataConfig,
    trainer: TrainerConfig,
    runs: RunsConfig,
    evaluate: EvaluateConfig,
    judging: JudgeSettings,
) -> EvaluationResult:
    """Generate, judge and measure loss with the run's selected direction; write the tables and the report.

    Completions and losses that an earlier or killed run computed are kept; no weights are loaded when all are there.
    Files that were made from another direction or setting are moved aside. Returns the result, without verdicts in all
    processes but the first.
    """
    started = time.perf_counter()
    require_loggers(trainer.logger)
    inputs = EvaluationInputs.open(open_model(model, trainer), data, trainer, runs, evaluate, judging)
    log.info(_counts(inputs.sets, evaluate.n_test))
    for line in far_longer(item.prompts for item in inputs.sets):
        log.warning(line)
    run = RunFolder(runs.root, inputs.chat.alias)
    with working(run, "evaluate", inputs.chat.identity, model.name, direction=inputs.selected.digest):
        sections: dict[str, Any] = {"model": model, "data": data, "evaluate": evaluate}
        about = {**sections, "trainer": trainer, "judging": judging}
        with stage_log(trainer.logger, run.log_place("evaluate"), about) as logged:
            result = evaluate_direction(inputs, run.journals)
            if not result.n_computed:
                log.info("evaluate: nothing to compute, all answers and losses are there")
            if is_main_process():
                write_evaluation(run, result)
                config = {name: asdict(section) for name, section in sections.items()}
                run.record_stage("evaluate", {"config": config, **record_of(result)}, time.perf_counter() - started)
                logged.write(measured(_report(run), result.answers))
    return result


def _counts(sets: Sequence[EvaluationSet], n_test: int | None) -> str:
    """How many prompts of each set are answered, and where that is fewer than asked for."""
    few = [item for item in sets if item.role == "harmless" and n_test is not None and len(item.prompts) < n_test]
    counts = ", ".join(
        f"{len(item.prompts)} of {item.prompts.name}" + (" (all there are)" if item in few else "") for item in sets
    )
    return f"evaluate: answers to {counts}" + (f"; evaluate.n_test is {n_test}" if few else "")


def _report(run: RunFolder) -> Summary:
    """The report, and the table that ends the stage; returns what they show."""
    summary = write_report(run)
    log.info("")
    log.info(terminal_table(summary, run.path))
    log.info(f"report:   {run.report}")
    return summary
