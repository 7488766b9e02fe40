"""Files that are there whole or not at all, and places that can be written: for every part that leaves results."""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

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


def require_writable(path: str | Path, key: str) -> None:
    """Raise UserError where a folder is not there and could not be made, or is not to be written; makes nothing."""
    folder = Path(path)
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    wrong = errno.EACCES if there.is_dir() else errno.ENOTDIR
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"{key}: cannot write in {str(path)!r}: {os.strerror(wrong)}")


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text. A lone surrogate, which UTF-8 cannot hold, is spelled out as JSON does: a result is written."""
    write_bytes(path, text.encode(errors="backslashreplace"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, durable on return."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with naming(path), replacing(path) as file:
        file.write(content)


@contextmanager
def replacing(path: Path, partial: Path | None = None) -> Iterator[IO[bytes]]:
    """A new file that takes a path's place at the end, whole and durable; where an error comes between, it is gone.

    ``partial`` is the name that it has until then, in the same folder.
    """
    partial = partial or path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with partial.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        with suppress(OSError):
            partial.unlink()
        raise
    sync_folder(path.parent)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """An OSError of writing, which names no file, names this one."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


_FULL = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk quota is used up"}


def full_disk(error: OSError) -> str | None:
    """What to tell a person where the disk is full; None for any other error."""
    if error.errno not in _FULL:
        return None
    at = f" ({error.filename})" if error.filename else ""
    return f"{_FULL[error.errno]}{at}: free some space and start the same command again; what was written is kept"


def sync_folder(folder: Path) -> None:
    """Put a folder's list of files on the disk, so that a new name survives a power loss; some file systems cannot."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
