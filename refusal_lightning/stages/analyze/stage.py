"""analyze: what the store tells about the candidates and the selected direction, without the model's weights."""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from refusal_lightning.config import (
    AnalyzeConfig,
    CacheConfig,
    DataConfig,
    ModelConfig,
    RunsConfig,
    SelectConfig,
    StoreConfig,
    TrainerConfig,
)
from refusal_lightning.directions.estimators.registry import ESTIMATORS
from refusal_lightning.inputs.drawing import drawn_sets
from refusal_lightning.inputs.model import open_model
from refusal_lightning.inputs.stored_prompts import StoredPrompts
from refusal_lightning.io.console import is_main_process
from refusal_lightning.io.files import write_bytes
from refusal_lightning.io.hashing import digest
from refusal_lightning.io.serialization import write_json, write_table
from refusal_lightning.loggers.measured import Measured
from refusal_lightning.loggers.registry import require_loggers
from refusal_lightning.loggers.stage_log import stage_log
from refusal_lightning.report.figures.canvas import png
from refusal_lightning.report.figures.registry import FIGURES
from refusal_lightning.runs.folder import RunFolder
from refusal_lightning.runs.made_from import make_room, working
from refusal_lightning.stages.analyze.analysis import Analysis, AnalysisResult
from refusal_lightning.stages.analyze.inputs import AnalysisInputs
from refusal_lightning.stages.analyze.opening import open_analysis_inputs
from refusal_lightning.stages.analyze.registry import ANALYSES

log = logging.getLogger(__name__)


def analyze(
    model: ModelConfig,
    data: DataConfig,
    store: StoreConfig,
    trainer: TrainerConfig,
    runs: RunsConfig,
    cache: CacheConfig,
    select: SelectConfig,
    analyze: AnalyzeConfig,
) -> AnalysisResult | None:
    """Measure the candidates of `select` (its filter, its first estimator) and the direction that it chose.

    Each analysis writes its own files, with what they were made from, to ``runs/<alias>/analysis``, as soon as it is
    done. It is the first process that makes them; of ``trainer``, its loggers count. Returns what all of them found;
    nothing in the other processes.
    """
    require_loggers(trainer.logger)
    require_settings(select, analyze)
    if not is_main_process():
        return None
    started = time.perf_counter()
    chat = open_model(model)
    sets = drawn_sets(chat, data)
    run = RunFolder(runs.root, chat.alias)
    run.prepare()
    prompts = StoredPrompts.open(chat, sets, store, cache)
    with working(run, "analyze", chat.identity, model.name):
        inputs = open_analysis_inputs(prompts, run, data, cache, select, analyze)
        sections = {"model": model, "data": data, "store": store, "cache": cache, "select": select, "analyze": analyze}
        found: dict[str, Analysis] = {}
        with stage_log(trainer.logger, run.log_place("analyze"), sections) as logged:
            for name in analyze.analyses:
                result = analyze_directions(inputs, [name])
                written = write_analysis(run, result)
                _tell(result, written)
                figures = {path.stem: path for path in written[name] if path.suffix == ".png"}
                logged.write(Measured(curves=result.analyses[name].curves), figures, prefix=f"{name}/")
                found |= result.analyses
        direction = inputs.made_from["direction"]
        entry = {"config": {"analyze": asdict(analyze)}, "model": chat.identity, "direction": direction}
        run.record_stage("analyze", entry, seconds=time.perf_counter() - started)
    return replace(result, analyses=found)


def require_settings(select: SelectConfig, analyze: AnalyzeConfig) -> None:
    """Raise UserError where the configuration names an analysis, its figure or an estimator that is not there."""
    ANALYSES.require(analyze.analyses, "analyze.analyses")
    for name in analyze.analyses:
        FIGURES.require(filter(None, [ANALYSES[name].figure]), f"the analysis {name}")
    ESTIMATORS.require(select.estimators, "select.estimators")


def analyze_directions(inputs: AnalysisInputs, names: Sequence[str]) -> AnalysisResult:
    """Make analyses by name. Raises UserError for a name that is none's."""
    ANALYSES.require(names, "analyses")
    analyses = {name: ANALYSES[name].compute(inputs) for name in names}
    return AnalysisResult(analyses, inputs.position_tokens, inputs.selected, inputs.made_from, inputs.labels)


def write_analysis(run: RunFolder, result: AnalysisResult) -> dict[str, list[Path]]:
    """Write each analysis: the table as CSV and JSON, the figure, and the arrays if any. Returns its files, by name.

    What other settings or another direction left there goes aside before.
    """
    paths = {name: [run.analysis(name, suffix) for suffix in _suffixes(result, name)] for name in result.analyses}
    same = {name: value for name, value in result.made_from.items() if name != "store"}  # which may be moved
    common = {"model": digest(same["model"]), "direction": same["direction"], "analysis": digest(same)}
    # A user's own analysis is bound to its code too.
    own = {name: {**found.made_from, **ANALYSES.origin(name)} for name, found in result.analyses.items()}
    planned = {path: {**common, **own[name]} for name, files in paths.items() for path in files}
    make_room(run, "analyze", planned, lambda _, other: common.items() <= other.items())
    for name, found in result.analyses.items():
        write_table(run.analysis(name, "csv"), found.rows)
        if figure := ANALYSES[name].figure:
            write_bytes(run.analysis(name, "png"), png(FIGURES[figure].draw(result.table(name))))
        if found.arrays:
            write_bytes(run.analysis(name, "npz"), _npz(found.arrays))
        # The JSON, with what it is made from, comes last.
        made_from = {**result.made_from, **own[name]}
        write_json(run.analysis(name, "json"), {"headline": found.headline, "made_from": made_from, "rows": found.rows})
    return paths


def _suffixes(result: AnalysisResult, name: str) -> list[str]:
    picture = ["png"] if ANALYSES[name].figure else []
    return ["csv", *picture, "json", *(["npz"] if result.analyses[name].arrays else [])]


def _npz(arrays: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def _tell(result: AnalysisResult, written: dict[str, list[Path]]) -> None:
    """The headline of each analysis, and where it is."""
    for name, found in result.analyses.items():
        if found.note:
            log.info(f"analyze: {found.note}")
        log.info(f"{name}: {found.headline}")
        table, *others = written[name]
        log.info(f"{name}: wrote {', '.join([str(table), *(path.suffix for path in others)])}")
