"""Weights & Biases: a W&B run for each job of a stage; offline, its files are in ``logs/wandb``."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refusal_lightning.errors import UserError
from refusal_lightning.io.text import one_line
from refusal_lightning.loggers.spec import LoggerSpec, LogPlace

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger

log = logging.getLogger(__name__)

PROJECT = "refusal-lightning"
"""The W&B project where WANDB_PROJECT names none."""
_STAYS_HERE = ("offline", "dryrun", "disabled")
"""Values of WANDB_MODE that send nothing."""

_SETTINGS: dict[str, Any] = {
    # Only what is logged here: not the terminal's text, the code, the machine with its environment, or packages.
    "console": "off",
    "disable_code": True,
    "disable_git": True,
    "save_code": False,
    "x_disable_machine_info": True,
    "x_disable_meta": True,
    "x_save_requirements": False,
    "silent": True,
    # A stage that has written its results does not hang where the network is gone; `wandb sync` sends the rest.
    "finish_timeout": 120.0,
}


def _require() -> None:
    # W&B would also read ~/.netrc, or ask on the terminal; keys come from the environment only.
    if os.environ.get("WANDB_MODE", "online") not in _STAYS_HERE and not os.environ.get("WANDB_API_KEY"):
        raise UserError(
            "trainer.logger: wandb needs WANDB_API_KEY in the environment; with WANDB_MODE=offline everything stays on "
            "this machine, and `wandb sync` sends it later"
        )


def _make(place: LogPlace) -> Logger:
    import wandb
    from lightning.pytorch.loggers import WandbLogger

    place.folder.mkdir(parents=True, exist_ok=True)
    try:
        # A run of its own, also where a notebook has one under way, which WandbLogger would go on with.
        run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=f"{place.alias} {place.stage}",
            group=place.alias,
            job_type=place.stage,
            dir=place.folder,
            reinit="create_new",
            settings=wandb.Settings(**_SETTINGS),
        )
    except (wandb.Error, ValueError) as error:  # ValueError: a version that has other settings
        reason = one_line(error)[:300]
        raise UserError(f"trainer.logger: wandb {wandb.__version__} could not start ({reason})") from error
    # As WandbLogger does with a run that it starts: the step of a metric is its axis.
    run.define_metric("trainer/global_step")
    run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
    if not run.offline:
        log.info(f"{place.stage}: W&B shows it at {run.url}")
    return WandbLogger(experiment=run, save_dir=place.folder)


def _add_figure(logger: Any, name: str, path: Path) -> None:
    logger.log_image(name, [str(path)], step=0)


def _close(logger: Any, status: str) -> None:
    logger.finalize(status)
    logger.experiment.finish(exit_code=0 if status == "success" else 1)


SPEC = LoggerSpec(_make, package="wandb", require=_require, add_figure=_add_figure, close=_close)
