"""A journal of small results: JSON lines, one file per process, safe against a kill at any moment."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

from refusal_lightning.distributed.process_group import barrier
from refusal_lightning.io.console import is_main_process
from refusal_lightning.io.files import sync_folder
from refusal_lightning.io.jsonl import Record, read_records, whole_lines


class Journal:
    """A folder of JSON-lines files. A line that a kill cut short is as if it had never been written."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def __iter__(self) -> Iterator[Record]:
        for path in sorted(self.folder.glob("*.jsonl")):
            yield from read_records(whole_lines(path.read_bytes()))

    def open(self, rank: int) -> TextIO:
        """The file of one process, ready to append after its last whole line."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"rank{rank}.jsonl"
        if path.exists():
            whole = len(whole_lines(path.read_bytes()))
            if whole < path.stat().st_size:
                os.truncate(path, whole)
            return path.open("a", encoding="utf-8")
        file = path.open("a", encoding="utf-8")
        sync_folder(self.folder)  # else a power loss takes the file's name, and with it every record in it
        sync_folder(self.folder.parent)
        return file

    def drain(self, keep: Callable[[list[Record]], None]) -> None:
        """Have what the journal holds kept elsewhere, and delete it, once every process of the run has read it.

        Every process must call this. ``keep`` is called on the first one only, and not for an empty journal.
        """
        barrier()
        if is_main_process() and (records := list(self)):
            keep(records)
            self.remove()
        barrier()  # nobody begins the next before this one is gone

    def remove(self) -> None:
        """Delete the journal."""
        for path in self.folder.glob("*.jsonl"):
            path.unlink()
        if self.folder.is_dir():
            self.folder.rmdir()
