"""The registry of loggers, and the check that what a configuration asks for can be had."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

from refusal_lightning.errors import UserError
from refusal_lightning.loggers import csv, tensorboard, wandb
from refusal_lightning.loggers.spec import LoggerSpec
from refusal_lightning.registry import Registry

LOGGERS: Registry[LoggerSpec] = Registry(
    "logger",
    {
        "csv": csv.SPEC,
        "tensorboard": tensorboard.SPEC,
        "wandb": wandb.SPEC,
    },
)
"""By the name that configurations use. None is imported before it is asked for."""


def require_loggers(names: Sequence[str]) -> None:
    """Raise UserError for a name that is no logger's, and for one whose package or key is not here."""
    LOGGERS.require(names, "trainer.logger")
    for name in names:
        spec = LOGGERS[name]
        if spec.package is not None and find_spec(spec.package) is None:
            raise UserError(
                f"trainer.logger: {name} needs the package {spec.package}: pip install "
                f"'refusal-lightning[{spec.package}]'"
            )
        spec.require()
