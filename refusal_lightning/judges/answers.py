"""What judging models answered, kept on disk as it arrives, so that nothing is asked or paid for twice."""

from __future__ import annotations

import hashlib
import json
import os
from collections import UserDict
from pathlib import Path
from typing import Any

from refusal_lightning.errors import UserError


def answer_key(identity: list[Any], question: Any) -> str:
    """The hash under which an answer is kept: who was asked (endpoint, model, limits), and what, to the letter.

    The question holds prompt and response. How the answer is read is no part of it: changing the reading, as the paper
    mode does, asks for nothing again.
    """
    text = json.dumps([identity, question], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


class AnswerFile(UserDict[str, str]):
    """A mapping of key to answer whose every new entry is on disk before the assignment returns.

    JSON lines. A line that a kill cut short is as if it had never been written; the next one starts on a line of its
    own. Nothing is ever cut off the file, so two processes may append to it at the same time.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self.path = Path(path)
        self._ends_whole = True
        try:
            content = self.path.read_bytes() if self.path.exists() else b""
        except OSError as error:
            raise UserError(f"answers: {str(path)!r} cannot be read: {error.strerror}; name another file") from error
        for line in content.splitlines():
            try:
                record = json.loads(line)
                if isinstance(record["answer"], str):
                    self.data[record["key"]] = record["answer"]
            except (ValueError, KeyError, TypeError):
                continue
        self._ends_whole = content.endswith(b"\n") or not content

    def __setitem__(self, key: str, answer: str) -> None:
        line = json.dumps({"key": key, "answer": answer}) + "\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab", buffering=0) as file:
            file.write((line if self._ends_whole else "\n" + line).encode())
            self._ends_whole = True
            os.fsync(file.fileno())
        self.data[key] = answer
