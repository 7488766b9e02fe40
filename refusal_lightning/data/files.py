"""Writing the dataset's files: whole or not at all, and the same bytes everywhere."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from refusal_lightning.io.files import write_bytes
from refusal_lightning.io.hashing import file_digest, sha256_of


def rows_to_bytes(rows: Sequence[Any]) -> bytes:
    """Rows as the authors write them: indented by 4, ASCII only, no last line feed."""
    return json.dumps(rows, indent=4).encode("ascii")


def sha256_of_file(path: Path) -> str | None:
    """The hexadecimal SHA-256 of a file, None where there is none."""
    try:
        return file_digest(path)
    except FileNotFoundError:
        return None


def write_whole(path: Path, content: bytes) -> None:
    """Put a file in its place complete, also when the process is killed on the way; leaves an equal one alone."""
    if sha256_of_file(path) == sha256_of(content):
        return
    write_bytes(path, content)
