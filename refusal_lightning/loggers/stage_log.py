"""The log of one job of a stage: its figures, curves and rates, given to every logger that was asked for."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refusal_lightning.io.console import is_main_process
from refusal_lightning.io.hashing import sha256_of
from refusal_lightning.loggers.measured import Measured, Work
from refusal_lightning.loggers.registry import LOGGERS, require_loggers
from refusal_lightning.loggers.spec import LoggerSpec, LogPlace

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger

log = logging.getLogger(__name__)

_TEXTS = ("system_prompt", "answer_prefix")
"""Keys of the configuration that hold a prompt's text, of which only a digest is logged."""


class StageLog:
    """Writes to all loggers of a stage's job; with none, to nobody."""

    def __init__(self) -> None:
        self._loggers: list[tuple[LoggerSpec, Logger]] = []
        self._started = time.perf_counter()
        self._work: dict[str, Work] = {}

    def __bool__(self) -> bool:
        """Whether anybody listens."""
        return bool(self._loggers)

    def add(self, spec: LoggerSpec, logger: Logger) -> None:
        """One more that listens."""
        self._loggers.append((spec, logger))

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Log the configuration, a dataclass for each section, as hyperparameters."""
        for _, logger in self._loggers:
            logger.log_hyperparams(_plain_config(config))
        self._save()

    def write(self, measured: Measured, figures: Mapping[str, Path] | None = None, prefix: str = "") -> None:
        """Log what was found, with PNG files of figures by name. All names begin with ``prefix``."""
        steps: dict[int, dict[str, float]] = {}
        for name, curve in measured.curves.items():
            for step, value in curve.items():
                if math.isfinite(value):
                    steps.setdefault(step, {})[prefix + name] = value
        for step in sorted(steps):
            self._log(steps[step], step)
        scalars = {f"{prefix}{name}": value for name, value in measured.scalars.items() if value is not None}
        self._log({name: value for name, value in scalars.items() if math.isfinite(value)})
        for name, path in (figures or {}).items():
            for spec, logger in self._loggers:
                if spec.add_figure is not None:
                    spec.add_figure(logger, f"{prefix}figures/{name}", path)
        self._save()

    def write_live(self, loop: str, per_second: Mapping[str, float], batches: int) -> None:
        """Log how fast a loop is at this moment, in units per second, after so many batches."""
        self._log({f"live/{loop}/{unit}_per_s": rate for unit, rate in per_second.items()}, batches)
        self._save()

    def add_work(self, loop: str, work: Work) -> None:
        """Note what a loop did: loops of one name count together."""
        self._work[loop] = self._work.get(loop, Work()) + work

    def work(self, loop: str) -> Work:
        """What the loops of this name did so far."""
        return self._work.get(loop, Work())

    def close(self, status: str) -> None:
        """End all loggers; a stage that succeeded says how fast it was."""
        try:
            if status == "success":
                rates = {f"speed/{loop}/{unit}_per_s": rate for loop, unit, rate in self._rates()}
                self._log({**rates, "speed/seconds": time.perf_counter() - self._started})
        finally:
            with ExitStack() as closing:  # each is closed, whatever another one raises
                for spec, logger in self._loggers:
                    closing.callback(spec.close, logger, status)

    def _rates(self) -> Iterator[tuple[str, str, float]]:
        for loop, work in self._work.items():
            yield from ((loop, unit, count / work.seconds) for unit, count in work.done.items() if work.seconds)

    def _log(self, values: Mapping[str, float], step: int = 0) -> None:
        for _, logger in self._loggers:
            if values:
                logger.log_metrics(dict(values), step)

    def _save(self) -> None:
        for _, logger in self._loggers:
            logger.save()


_at_work: list[StageLog] = []


def log_at_work() -> StageLog | None:
    """The log of the stage that is at work in this process; None where nobody asked for one."""
    return _at_work[-1] if _at_work else None


@contextmanager
def stage_log(names: Sequence[str], place: LogPlace, config: Mapping[str, Any]) -> Iterator[StageLog]:
    """While a stage computes and writes: its log, which begins with the configuration, a dataclass for each section.

    Only the first process of a run has one that writes. Raises UserError where a logger cannot be had.
    """
    require_loggers(names)
    if not names or not is_main_process():
        yield StageLog()
        return
    made = StageLog()
    try:
        for name in names:
            made.add(LOGGERS[name], LOGGERS[name].make(place))
        made.write_config(config)
        _at_work.append(made)
        yield made
    except BaseException:
        made.close("failed")
        raise
    else:
        made.close("success")
        log.info(f"{place.stage}: logged by {', '.join(names)} in {place.folder}")
    finally:
        if made in _at_work:
            _at_work.remove(made)


def _plain_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The sections as plain data. Keys and passwords are in none of them, which the sections themselves see to."""
    sections = {name: asdict(section) for name, section in config.items()}
    for section in sections.values():
        for key in _TEXTS:
            if section.get(key):
                section[key] = f"sha256 {sha256_of(section[key])[:12]}"
    return sections
