"""select: from the store to the refusal direction."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

from refusal_lightning.config import (
    CacheConfig,
    DataConfig,
    ModelConfig,
    RunsConfig,
    SelectConfig,
    StoreConfig,
    TrainerConfig,
)
from refusal_lightning.directions.estimators.registry import ESTIMATORS
from refusal_lightning.directions.selection.choose import NoCandidateError
from refusal_lightning.distributed.launch import distributed_stage
from refusal_lightning.distributed.process_group import announce_end, require_shared_folder
from refusal_lightning.doctor.hook_proof import HookProof
from refusal_lightning.errors import UserError
from refusal_lightning.inputs.model import open_model
from refusal_lightning.io.console import is_main_process
from refusal_lightning.loggers.registry import require_loggers
from refusal_lightning.loggers.stage_log import StageLog, stage_log
from refusal_lightning.report.figures.registry import figures_of
from refusal_lightning.report.figures.scores import ScoredCandidates
from refusal_lightning.runs.folder import RunFolder
from refusal_lightning.runs.made_from import working
from refusal_lightning.stages.select.artifacts import write_selection
from refusal_lightning.stages.select.direction import select_direction
from refusal_lightning.stages.select.inputs import SelectionInputs
from refusal_lightning.stages.select.kept_results import KeptResults
from refusal_lightning.stages.select.measured import measured
from refusal_lightning.stages.select.result import SelectionResult, describe
from refusal_lightning.stages.select.runner import Runner

log = logging.getLogger(__name__)


@distributed_stage
def select(
    model: ModelConfig,
    data: DataConfig,
    store: StoreConfig,
    trainer: TrainerConfig,
    runs: RunsConfig,
    cache: CacheConfig,
    select: SelectConfig,
) -> dict[str, SelectionResult]:
    """Filter prompts, estimate directions, score the candidates that may win, and choose (paper, section 2.3-2.4).

    Scores that the store holds are not computed again; when it holds them all, no weights are loaded. Each estimator
    is a selection of its own: the first one's files are the run's, the others' are in ``estimators/NAME``. Files of the
    run that were made from another direction or setting are moved aside. Returns the results by estimator, in every
    process. The first one raises UserError, after the last estimator, where one chose nothing.
    """
    require_loggers(trainer.logger)
    inputs = SelectionInputs.open(open_model(model, trainer), data, store, cache, select)
    run = RunFolder(runs.root, inputs.chat.alias)
    run.prepare()
    require_shared_folder(run.path, "runs.root")
    with working(run, "select", inputs.chat.identity, model.name, replace=runs.replace):
        proof = _hook_proof(run, inputs, select)
        config = {"model": model, "data": data, "store": store, "trainer": trainer, "cache": cache, "select": select}
        with stage_log(trainer.logger, run.log_place("select"), config) as logged:
            job = _Job(run, model, select, trainer, proof, logged)
            results = {estimator: _select_with(estimator, inputs, job) for estimator in select.estimators}
    for name, result in results.items():
        if isinstance(result.choice, NoCandidateError) and is_main_process():
            announce_end()
            raise UserError(f"{result.choice}; the scores are in {_folder(run, name, select).evaluations}")
    return results


def _hook_proof(run: RunFolder, inputs: SelectionInputs, config: SelectConfig) -> HookProof:
    """One for all estimators."""
    work = ["scores", "answer KL"] if config.answer_kl_tokens else ["scores"]
    validation = (inputs.kept[name].prompts.token_ids for name in ("harmful_val", "harmless_val"))
    return HookProof("select", inputs.chat, run.journals, work, *validation)


@dataclass(frozen=True)
class _Job:
    """What the selections of all estimators share."""

    run: RunFolder
    model: ModelConfig
    config: SelectConfig
    trainer: TrainerConfig
    proof: HookProof
    logged: StageLog


def _select_with(estimator: str, inputs: SelectionInputs, job: _Job) -> SelectionResult:
    """One estimator's selection, written to its folder by the first process."""
    started, run, config = time.perf_counter(), job.run, job.config
    folder = _folder(run, estimator, config)
    folder.prepare()
    if len(config.estimators) > 1:
        log.info(f"select: {estimator}: {ESTIMATORS[estimator].label}")
    runner = Runner(job.trainer, KeptResults(inputs.store, folder.results), folder.journal, job.proof)
    result = select_direction(inputs, estimator, config, runner)
    if is_main_process():
        write_selection(folder, result, job.model, lambda: time.perf_counter() - started)
        figures = {name: folder.score_plot(name) for name in figures_of(ScoredCandidates)}
        job.logged.write(measured(result), figures, prefix="" if folder is run else f"{estimator}/")
        for line in describe(result):
            log.info(line)
        if not isinstance(result.choice, NoCandidateError):
            log.info(f"select: wrote {folder.path}")
    return result


def _folder(run: RunFolder, estimator: str, config: SelectConfig) -> RunFolder:
    """Where an estimator's selection goes: the first one's is the run's own."""
    return run if estimator == config.estimators[0] else RunFolder(run.estimators, estimator)
