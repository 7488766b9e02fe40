"""The predict loop, and the journal that its results go through: each written once, for every stage."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from refusal_lightning.config import TrainerConfig
from refusal_lightning.distributed.journal import Journal, Record
from refusal_lightning.distributed.process_group import barrier, wait_until_visible
from refusal_lightning.distributed.shutdown import defer_shutdown, keep_interrupts
from refusal_lightning.loggers.stage_log import log_at_work

if TYPE_CHECKING:
    import lightning as L
    from lightning.pytorch.callbacks import Callback


@dataclass(frozen=True)
class PredictLoop:
    """A module and the units of work that it is to run, divided contiguously among the processes."""

    module: L.LightningModule
    pending: Callable[[], Sequence[Any]]
    """What is left to do, a key per unit; the first process's list counts."""
    batches: Callable[[Any], Iterable[Any]] | None = None
    """Names of a unit's batches; the unit is its only one if left out."""
    make: Callable[[Any], Any] | None = None
    """Makes a named batch when its turn has come."""
    prepare: Callable[[], None] | None = None
    """Runs once, on the first process, before anything else."""
    name: str = ""
    """What a log calls it."""
    counts: Callable[[Any], Mapping[str, int]] | None = None
    """How much a prediction is, in units such as prompts and tokens, for the rates of a log."""


def run_loop(trainer: TrainerConfig, loop: PredictLoop, callbacks: Sequence[Callback]) -> None:
    """Run a loop on all processes, and wait for all.

    Raises UserError where each process would have a copy of a model that is to be spread over the devices.
    """
    # Lightning takes seconds to import, and a stage that finds everything done has no use for it.
    from refusal_lightning.distributed.trainer import build_trainer, require_one_copy
    from refusal_lightning.distributed.work import WorkDataModule

    built = build_trainer(trainer, [*callbacks, *_rate_monitor(loop)])
    require_one_copy(built, bool(getattr(loop.module, "spread", False)))
    work = WorkDataModule(loop.pending, loop.batches, loop.make, loop.prepare)
    with defer_shutdown(), keep_interrupts():
        built.predict(loop.module, datamodule=work, return_predictions=False)
    barrier()


def _rate_monitor(loop: PredictLoop) -> list[Callback]:
    """What tells the stage's log how fast the loop is, if somebody asked for one."""
    log = log_at_work()
    if log is None or loop.counts is None:
        return []
    from refusal_lightning.distributed.rate_monitor import RateMonitor

    return [RateMonitor(log, loop.name, loop.counts)]


def run_journaled(
    trainer: TrainerConfig, loop: PredictLoop, journal: Journal, records: Callable[[Any], Iterable[Record]]
) -> list[Record]:
    """Run a loop whose results go through a journal: all records in it, the same for every process.

    ``records`` makes of a prediction what is kept of it. Whatever a kill interrupts, a unit's records that were
    written stay, and whoever calls this leaves the units out that have theirs.
    """
    from refusal_lightning.distributed.journal_writer import JournalWriter

    writer = JournalWriter(journal, records)
    run_loop(trainer, loop, [writer])
    wait_until_visible(writer.written)
    return list(journal)
