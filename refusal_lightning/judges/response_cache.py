"""What judging models responded, kept on disk as it arrives, so that nothing is asked or paid for twice."""

from __future__ import annotations

import json
import os
from collections import UserDict
from io import RawIOBase
from pathlib import Path
from typing import Any

from refusal_lightning.errors import UserError
from refusal_lightning.io.files import sync_folder, writable_folder
from refusal_lightning.io.hashing import sha256_of
from refusal_lightning.io.jsonl import read_records
from refusal_lightning.io.text import whole_characters


def response_key(identity: list[Any], question: Any) -> str:
    """The hash under which a judge's response is kept: who was asked (endpoint, model, limits), and exactly what.

    The question holds the prompt and the completion that is judged. How the response is read is no part of it: changing
    the reading, as the paper mode does, asks for nothing again.
    """
    return sha256_of(json.dumps([identity, question], sort_keys=True))[:32]


class ResponseCache(UserDict[str, str]):
    """A mapping of key to response whose every new entry is on disk before the assignment returns.

    JSON lines. A line that a kill or a full disk cut short is as if it had never been written; the next one starts on a
    line of its own. Nothing is ever cut off the file, so two processes may append to it at the same time. Raises
    UserError where the file cannot be read or written.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self.path = Path(path)
        self._ends_whole = True
        try:
            content = self.path.read_bytes() if self.path.exists() else b""
        except OSError as error:
            raise UserError(f"answers: {str(path)!r} cannot be read: {error.strerror}; name another file") from error
        for record in read_records(content):
            key, response = record.get("key"), record.get("answer")
            if isinstance(key, str) and isinstance(response, str):
                # Responses were once kept as they came, halves of characters too.
                self.data[key] = whole_characters(response)
        self._ends_whole = content.endswith(b"\n") or not content

    def require_writable(self) -> None:
        """See, before anything is asked and paid for, that responses can be kept. Raises UserError."""
        writable_folder(self.path.parent, "answers")
        if self.path.exists():
            try:
                self.path.open("ab").close()
            except OSError as error:
                raise UserError(f"answers: cannot write {str(self.path)!r}: {error.strerror}") from error

    def __setitem__(self, key: str, response: str) -> None:
        line = json.dumps({"key": key, "answer": response}) + "\n"
        is_new = not self.path.exists()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab", buffering=0) as file:
                self._append(file, (line if self._ends_whole else "\n" + line).encode())
                os.fsync(file.fileno())
        except OSError as error:
            raise UserError(
                f"answers: {str(self.path)!r} cannot be written: {error.strerror}; the answers before are kept, mend "
                "this and run again to continue"
            ) from error
        if is_new:
            sync_folder(self.path.parent)
        self.data[key] = response

    def _append(self, file: RawIOBase, line: bytes) -> None:
        """Write all of a line, in one piece if the disk takes it; what it takes in part counts as cut short."""
        self._ends_whole = False
        rest = memoryview(line)
        while rest:
            rest = rest[file.write(rest) or 0 :]
        self._ends_whole = True
