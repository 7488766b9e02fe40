"""report: the page of a run, written again from what the run's folder holds."""

from __future__ import annotations

import logging
from pathlib import Path

from refusal_lightning.config import ModelConfig, RunsConfig
from refusal_lightning.errors import UserError
from refusal_lightning.io.console import is_main_process
from refusal_lightning.models.chat_model import alias_of
from refusal_lightning.report.html import write_report
from refusal_lightning.report.summary import Summary
from refusal_lightning.runs.folder import RunFolder

log = logging.getLogger(__name__)

SHUTS_OUT = ("select", "evaluate")
"""Stages that change what a report is made from."""


def report(model: ModelConfig, runs: RunsConfig) -> Summary | None:
    """Write report.html of the model's run again; neither the model nor the store is needed.

    Returns what it shows; nothing in processes beside the first, which has no use for others.
    """
    if not is_main_process():
        return None
    return report_on(Path(runs.root) / alias_of(model.name, model.alias))


def report_on(folder: str | Path) -> Summary:
    """Write report.html of the run in a folder again. Raises UserError where it holds no evaluation."""
    path = Path(folder).resolve() if Path(folder).name in ("", "..") else Path(folder)
    run = RunFolder(path.parent, path.name)
    require_evaluation(run)
    with run.working("report", SHUTS_OUT):
        summary = write_report(run)
    log.info(f"report: wrote {run.report}")
    return summary


def require_evaluation(run: RunFolder) -> None:
    """Raise UserError where there is nothing to report on."""
    if "evaluate" not in run.read_record():
        raise UserError(f"{run.path} holds no evaluation to report on; run `evaluate` first")
