"""What exactly a model is: a Hub commit, or a hash of a local folder's weights."""

from __future__ import annotations

import hashlib
import json
import os
import re
import uuid
from contextlib import suppress
from pathlib import Path

import platformdirs

CACHE_VARIABLE = "REFUSAL_LIGHTNING_CACHE"
_WEIGHTS = (".safetensors", ".bin", ".gguf", ".pt")


def cache_folder() -> Path:
    """The user's cache folder: $REFUSAL_LIGHTNING_CACHE, else the operating system's usual place."""
    chosen = os.environ.get(CACHE_VARIABLE)
    return Path(chosen).expanduser() if chosen else Path(platformdirs.user_cache_dir("refusal_lightning"))


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def weights_digest(folder: Path, own_code: bool = False) -> str:
    """One digest over a folder's config and weight files, and its Python files where the model is ``own_code``.

    Hashing many gigabytes takes minutes, so each weight file's digest is remembered in the user's cache folder
    under its path, size and time of change.
    """
    kinds = (*_WEIGHTS, ".py") if own_code else _WEIGHTS
    files = sorted(p for p in folder.iterdir() if p.suffix in kinds or p.name == "config.json")
    parts = [[path.name, _remembered_digest(path)] for path in files]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _remembered_digest(path: Path) -> str:
    stat = path.stat()
    key = json.dumps([str(path.resolve()), stat.st_size, stat.st_mtime_ns])
    note = cache_folder() / "digests" / hashlib.sha256(key.encode()).hexdigest()
    with suppress(OSError):
        remembered = note.read_text(errors="replace").strip()
        if re.fullmatch("[0-9a-f]{64}", remembered):  # a power loss can leave a note empty
            return remembered
    digest = file_digest(path)
    with suppress(OSError):  # a read-only cache only costs time
        note.parent.mkdir(parents=True, exist_ok=True)
        temporary = note.with_name(f"{note.name}.{uuid.uuid4().hex}")
        with temporary.open("w") as file:
            file.write(digest)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(note)
    return digest
