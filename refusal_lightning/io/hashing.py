"""SHA-256 of bytes, files and values: by these, results are named and bound to what they were made from."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any


def sha256_of(content: bytes | str) -> str:
    """SHA-256 of bytes, or of a text's UTF-8, in hex."""
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(value: Any) -> str:
    """A short hash of anything JSON can hold: the key of results that depend on it."""
    return sha256_of(json.dumps(value, sort_keys=True))[:16]
