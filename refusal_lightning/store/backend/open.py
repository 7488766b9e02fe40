"""The backend of a path or URL."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from refusal_lightning.errors import UserError
from refusal_lightning.store.backend.local import LocalBackend
from refusal_lightning.store.backend.memory import SCHEME, MemoryBackend
from refusal_lightning.store.backend.protocol import Backend


def open_backend(url: str | Path, storage_options: Mapping[str, Any] | None = None) -> Backend:
    """Objects at a local path or a URL (s3://, gs://, memory://, ...).

    Raises UserError if the URL's scheme needs a package that is not installed, or is unknown.
    """
    text = str(url)
    if text.startswith("file://"):
        text = text.removeprefix("file://")
    if "://" not in text:
        if not text.strip():
            raise UserError("activation store: the path is empty")
        return LocalBackend(Path(text).expanduser())
    if text.startswith(f"{SCHEME}://"):
        return MemoryBackend(f"{SCHEME}://{text.removeprefix(f'{SCHEME}://').strip('/')}")
    from refusal_lightning.store.backend.remote import RemoteBackend
    from refusal_lightning.store.backend.url_options import open_bucket

    text = text.rstrip("/")
    return RemoteBackend(text, *open_bucket(text, storage_options or {}))


def join_url(root: str, name: str) -> str:
    """What is called so under a folder or URL; ``memory://`` alone is a root too."""
    return f"{root}{name}" if root.endswith("://") else f"{root.rstrip('/')}/{name}"
