"""How fast a predict loop is, told to the log of the stage that runs it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from refusal_lightning.loggers.measured import Work
from refusal_lightning.loggers.stage_log import StageLog

LIVE_S = 2.0
"""Seconds between two live rates: what a logger does for one is far less than a thousandth of that."""


class RateMonitor(Callback):
    """Counts what the batches held: the rate of the last seconds while the loop runs, and that of all of it at its end.

    It is the first process that counts, whose batches are like the others': its rate times their number is that of
    the run.
    """

    def __init__(self, log: StageLog, name: str, counts: Callable[[Any], Mapping[str, int]]) -> None:
        self._log, self._name, self._counts = log, name, counts
        self._done: Counter[str] = Counter()
        self._told: Counter[str] = Counter()
        self._batches = 0
        self._before = log.work(name).batches
        self._started = self._last = 0.0

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._started = self._last = time.perf_counter()

    def on_predict_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._done.update(self._counts(outputs))
        self._batches += 1
        now = time.perf_counter()
        if now - self._last >= LIVE_S:
            lately = (self._done - self._told).items()
            rates = {unit: count * trainer.world_size / (now - self._last) for unit, count in lately}
            self._log.write_live(self._name, rates, self._before + self._batches)
            self._told, self._last = self._done.copy(), now

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        done = {unit: count * trainer.world_size for unit, count in self._done.items()}
        seconds = time.perf_counter() - self._started
        self._log.add_work(self._name, Work(done, self._batches, seconds))
