"""Writing result files: whole or not at all."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from refusal_lightning.errors import UserError


def digest(value: Any) -> str:
    """A short hash of anything JSON can hold: the key of results that depend on it."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def writable_folder(path: str | Path, key: str) -> Path:
    """Make a folder and see that files can be written there; ``key`` is the config key to name in an error."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".write-test-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"{key}: cannot write in {str(path)!r}: {error.strerror}") from error
    return folder


def write_json(path: Path, value: Any) -> None:
    """Write JSON, indented; numbers that JSON has no word for (NaN, infinities) become null."""
    text = json.dumps(_plain(value), indent=4, ensure_ascii=False, allow_nan=False) + "\n"
    write_text(path, text)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text."""
    write_bytes(path, text.encode())


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows of the same keys as CSV with a header, floats to the last digit; NaN and infinities become empty."""
    text = io.StringIO()
    table = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    table.writeheader()
    for row in rows:
        table.writerow(_plain(dict(row)))
    write_text(path, text.getvalue())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, durable on return."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
