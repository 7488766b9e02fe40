"""What exactly a model is: a Hub commit, or a hash of a local folder's weights."""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from pathlib import Path

import platformdirs

from refusal_lightning.io.files import write_text
from refusal_lightning.io.hashing import file_digest, sha256_of

CACHE_VARIABLE = "REFUSAL_LIGHTNING_CACHE"
_WEIGHTS = (".safetensors", ".bin", ".gguf", ".pt")


def cache_folder() -> Path:
    """The user's cache folder: $REFUSAL_LIGHTNING_CACHE, else the operating system's usual place."""
    chosen = os.environ.get(CACHE_VARIABLE)
    return Path(chosen).expanduser() if chosen else Path(platformdirs.user_cache_dir("refusal_lightning"))


def weights_digest(folder: Path, own_code: bool = False) -> str:
    """One digest over a folder's config and weight files, and its Python files where the model is ``own_code``.

    Hashing many gigabytes takes minutes, so each weight file's digest is remembered in the user's cache folder
    under its path, size and time of change.
    """
    kinds = (*_WEIGHTS, ".py") if own_code else _WEIGHTS
    files = sorted(p for p in folder.iterdir() if p.suffix in kinds or p.name == "config.json")
    parts = [[path.name, _remembered_digest(path)] for path in files]
    return sha256_of(json.dumps(parts))


def _remembered_digest(path: Path) -> str:
    stat = path.stat()
    key = json.dumps([str(path.resolve()), stat.st_size, stat.st_mtime_ns])
    note = cache_folder() / "digests" / sha256_of(key)
    with suppress(OSError):
        remembered = note.read_text(errors="replace").strip()
        if re.fullmatch("[0-9a-f]{64}", remembered):  # a power loss can leave a note empty
            return remembered
    digest = file_digest(path)
    with suppress(OSError):  # a read-only cache only costs time
        write_text(note, digest)
    return digest
