"""From predictions to the journal, durable before the next batch."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

import lightning as L
from lightning.pytorch.callbacks import BasePredictionWriter

from refusal_lightning.distributed.journal import Journal, Record
from refusal_lightning.io.files import naming


class JournalWriter(BasePredictionWriter):
    """Appends each prediction's records to the journal and syncs them to disk before the next batch."""

    def __init__(self, journal: Journal, records: Callable[[Any], Iterable[Record]]) -> None:
        super().__init__(write_interval="batch")
        self.journal, self.records = journal, records
        self.written: dict[Path, int] = {}
        """The file that this process wrote, and its size in bytes."""
        self._file: TextIO | None = None

    def write_on_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        prediction: Any,
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        if self._file is None:
            self._file = self.journal.open(trainer.global_rank)
        with naming(Path(self._file.name)):
            for record in self.records(prediction):
                self._file.write(json.dumps(record) + "\n")
            self._file.flush()
            os.fsync(self._file.fileno())

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._close()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        with suppress(OSError):  # on a full disk the last batch fails again, and it is said already
            self._close()

    def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            try:
                self.written = {Path(file.name): os.fstat(file.fileno()).st_size}
            finally:
                file.close()
