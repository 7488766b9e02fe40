"""run: the stages one after the other, in processes that meet once, with the model loaded once."""

from __future__ import annotations

import gc
import inspect
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from refusal_lightning.directions.selection.choose import NoCandidateError
from refusal_lightning.distributed.launch import launched
from refusal_lightning.distributed.process_group import leave_process_group, stop_if_requested, wait_for_folder
from refusal_lightning.inputs.model import models_kept, open_model, release_models
from refusal_lightning.io.console import is_main_process
from refusal_lightning.pipeline.preflight import require_one_process, require_possible
from refusal_lightning.pipeline.result import RunResult, StageResult
from refusal_lightning.pipeline.sections import Sections
from refusal_lightning.pipeline.stages import DEFAULT, STAGES, in_order
from refusal_lightning.runs.folder import RunFolder


def run(sections: Sections, stages: Sequence[str] = DEFAULT) -> RunResult:
    """Run stages in their order, whatever the order of their names.

    They write what each writes as a command of its own, and a run that was stopped goes on as they do. The model's
    weights are loaded when the first stage needs them, and kept until the last one that may has ended. Of several
    processes (``trainer``) the first goes on alone after the stages that all share; the others then have a result
    without the rest. Raises UserError for a mistake in the configuration of any stage, before the first one.
    """
    names = in_order(stages)
    shared = [name for name in names if STAGES[name].in_all_processes]
    done: dict[str, StageResult] = {}
    if "capability" in names:
        require_one_process(sections.trainer)  # before there are several
    with models_kept():
        with launched({**vars(sections), "stages": names}) if shared else nullcontext():
            require_possible(sections, frozenset(names))
            for name in shared:
                done[name] = _run_stage(name, sections)
                if _ends(name, done[name].result):
                    return RunResult(done)
                if name != shared[-1]:
                    _see_results(name, done[name].result, sections)
                    stop_if_requested()
        leave_process_group()
        for name in names[len(shared) :] if is_main_process() else ():
            stop_if_requested()
            done[name] = _run_stage(name, sections)
    return RunResult(done)


def _run_stage(name: str, sections: Sections) -> StageResult:
    started = time.perf_counter()
    if not STAGES[name].needs_model:
        release_models()
    stage = STAGES[name].load()
    result = stage(**{section: getattr(sections, section) for section in inspect.signature(stage).parameters})
    _free_memory()
    return StageResult(result, time.perf_counter() - started)


def _ends(name: str, result: Any) -> bool:
    """Whether a stage found no way on: the first process has raised an error, and the others have no more to do."""
    return name == "select" and any(isinstance(found.choice, NoCandidateError) for found in result.values())


def _see_results(name: str, result: Any, sections: Sections) -> None:
    """Until all processes see what the stage has written, since the next one reads it in all of them."""
    if name == "cache" and "://" not in result.url:
        wait_for_folder(Path(result.url))
    elif name == "select":
        alias = open_model(sections.model, sections.trainer).alias
        wait_for_folder(RunFolder(sections.runs.root, alias).path)


def _free_memory() -> None:
    """Let go of what a stage's loops have left: their objects hold each other, models of judges among them.

    A stage that ran no loop has left nothing, and to look for it takes half a second.
    """
    if "lightning" not in sys.modules:
        return
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()  # as the next stage finds the device when it is a command of its own
