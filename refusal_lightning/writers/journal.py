"""A journal of small results: JSON lines, one file per process, safe against a kill at any moment."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import lightning as L
from lightning.pytorch.callbacks import BasePredictionWriter

Record = dict[str, Any]


class Journal:
    """A folder of JSON-lines files. A line that a kill cut short is as if it had never been written."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def __iter__(self) -> Iterator[Record]:
        for path in sorted(self.folder.glob("*.jsonl")):
            for line in path.read_bytes().split(b"\n")[:-1]:
                try:
                    record = json.loads(line)
                except ValueError:
                    continue
                if isinstance(record, dict):
                    yield record

    def open(self, rank: int) -> TextIO:
        """The file of one process, ready to append after its last whole line."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"rank{rank}.jsonl"
        if path.exists():
            whole = path.read_bytes().rfind(b"\n") + 1
            if whole < path.stat().st_size:
                os.truncate(path, whole)
        return path.open("a", encoding="utf-8")

    def remove(self) -> None:
        """Delete the journal, once what it held is kept elsewhere."""
        for path in self.folder.glob("*.jsonl"):
            path.unlink()
        if self.folder.is_dir():
            self.folder.rmdir()


class JournalWriter(BasePredictionWriter):
    """Appends each prediction's records to the journal and syncs them to disk before the next batch."""

    def __init__(self, journal: Journal, records: Callable[[Any], Iterable[Record]]) -> None:
        super().__init__(write_interval="batch")
        self.journal, self.records = journal, records
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
        for record in self.records(prediction):
            self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._close()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._close()

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
