"""Objects in this process's memory: a store without files."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from refusal_lightning.store.backend.protocol import ObjectReader, Range

SCHEME = "memory"
_objects: dict[str, bytes] = {}
"""All objects of the process, by their whole URL: whoever opens the same URL finds them."""
_creating = threading.Lock()


class MemoryBackend:
    """Objects under a ``memory://`` URL, as long as the process lives."""

    def __init__(self, url: str) -> None:
        self.url = url

    def read(self, key: str) -> bytes | None:
        return _objects.get(self._path(key))

    def open(self, key: str) -> AbstractContextManager[ObjectReader]:
        try:
            return _MemoryReader(_objects[self._path(key)])
        except KeyError:
            raise FileNotFoundError(self._path(key)) from None

    def write(self, key: str, parts: Iterable[list[Any]]) -> None:
        _objects[self._path(key)] = b"".join(memoryview(buffer).cast("B") for some in parts for buffer in some)

    def create(self, key: str, data: bytes) -> bool:
        with _creating:
            if self._path(key) in _objects:
                return False
            _objects[self._path(key)] = bytes(data)
            return True

    def sizes(self, folder: str) -> dict[str, int | None]:
        return {name: len(data) for name, data in self._below(folder).items() if "/" not in name}

    def size(self, key: str) -> int | None:
        data = self.read(key)
        return None if data is None else len(data)

    def folders(self, folder: str) -> list[str]:
        return list(dict.fromkeys(name.partition("/")[0] for name in self._below(folder) if "/" in name))

    def delete(self, key: str) -> None:
        _objects.pop(self._path(key), None)

    def delete_folder(self, folder: str) -> None:
        for name in self._below(folder):
            self.delete(f"{folder}/{name}".lstrip("/"))

    def free_bytes(self) -> int | None:
        return None

    def remove_stale_partials(self) -> list[str]:
        return []

    def _path(self, key: str) -> str:
        return f"{self.url}{'' if self.url.endswith('://') else '/'}{key}"

    def _below(self, folder: str) -> dict[str, bytes]:
        """Objects under a folder, by what their keys have beyond it."""
        start = f"{self._path(folder)}/" if folder else self._path("")
        return {path.removeprefix(start): data for path, data in list(_objects.items()) if path.startswith(start)}


class _MemoryReader:
    """An object's bytes, which nobody changes: a write puts others in their place."""

    def __init__(self, data: bytes) -> None:
        self._data, self.size = memoryview(data), len(data)

    def __enter__(self) -> _MemoryReader:
        return self

    def __exit__(self, *exc: object) -> None:
        """Nothing is open."""

    def prefetch(self, ranges: Sequence[Range]) -> None:
        """All of it is here."""

    def read(self, start: int, stop: int, scratch: bytearray) -> Any:
        return self._data[start:stop]
