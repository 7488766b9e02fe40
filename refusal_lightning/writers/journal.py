"""A journal of small results: JSON lines, one file per process, safe against a kill at any moment."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from refusal_lightning.files import sync_folder

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
        file = path.open("a", encoding="utf-8")
        sync_folder(self.folder)  # else a power loss takes the file's name, and with it every record in it
        sync_folder(self.folder.parent)
        return file

    def remove(self) -> None:
        """Delete the journal, once what it held is kept elsewhere."""
        for path in self.folder.glob("*.jsonl"):
            path.unlink()
        if self.folder.is_dir():
            self.folder.rmdir()
