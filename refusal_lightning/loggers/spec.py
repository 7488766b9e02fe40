"""What a logger is to this package: how it is made, what it needs, how it takes a figure and how it ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger


@dataclass(frozen=True)
class LogPlace:
    """Whose log it is, and where it goes."""

    folder: Path
    """``runs/<alias>/logs``."""
    alias: str
    """The run's."""
    stage: str


def _needs_nothing() -> None:
    pass


def _finalize(logger: Logger, status: str) -> None:
    logger.finalize(status)


@dataclass(frozen=True)
class LoggerSpec:
    """A kind of logger that a configuration can ask for."""

    make: Callable[[LogPlace], Logger]
    """A new Lightning logger for one job of a stage, which writes below the place's folder."""
    package: str | None = None
    """What is to be installed for it; the extra of this package that brings it has the same name."""
    require: Callable[[], None] = _needs_nothing
    """Raises UserError where something else is missing, before any work."""
    add_figure: Callable[[Logger, str, Path], None] | None = None
    """Takes a PNG file under a name; None where a logger has no pictures."""
    close: Callable[[Logger, str], None] = _finalize
    """Ends it, with Lightning's word for how the stage ended: ``success`` or ``failed``."""
