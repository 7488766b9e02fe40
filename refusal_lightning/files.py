"""Files that are there whole or not at all, and places that can be written: for every part that leaves results."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

from refusal_lightning.errors import UserError


def writable_folder(path: str | Path, key: str) -> Path:
    """Make a folder and see that files can be written there; ``key`` is the config key to name in an error."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".write-test-{uuid.uuid4().hex}"  # process numbers may be the same on two machines
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"{key}: cannot write in {str(path)!r}: {error.strerror}") from error
    return folder


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, durable on return."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
