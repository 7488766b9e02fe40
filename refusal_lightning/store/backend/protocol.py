"""What a store needs of the place where it is: the same few operations on a disk and at a URL."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

Range = tuple[int, int]


class ObjectReader(Protocol):
    """An object opened for reading; one at a time, in a ``with`` block."""

    size: int

    def prefetch(self, ranges: Sequence[Range]) -> None:
        """Say which parts will be read."""

    def read(self, start: int, stop: int, scratch: bytearray) -> Any:
        """The bytes from ``start`` to ``stop`` as a buffer, ``scratch`` perhaps, which is made larger as needed."""


class Backend(Protocol):
    """Objects under one root. A write is atomic, and durable when it returns: a reader sees nothing or everything."""

    url: str

    def read(self, key: str) -> bytes | None:
        """The whole object, or None if there is none."""

    def open(self, key: str) -> AbstractContextManager[ObjectReader]:
        """Open to read parts. Raises FileNotFoundError."""

    def write(self, key: str, parts: Iterable[list[Any]]) -> None:
        """Put an object together from lists of buffers."""

    def create(self, key: str, data: bytes) -> bool:
        """Write an object if there is none of this key yet; False if there is: another's, or one's own whose reply
        was lost.
        """

    def sizes(self, folder: str) -> dict[str, int | None]:
        """Names right under a folder with their bytes (None where unknown; folders are left out)."""

    def size(self, key: str) -> int | None:
        """Bytes of an object; None if there is none."""

    def folders(self, folder: str) -> list[str]:
        """Names of the folders right under a folder."""

    def delete(self, key: str) -> None:
        """Delete one object, if it is there."""

    def delete_folder(self, folder: str) -> None:
        """Delete everything under a folder."""

    def free_bytes(self) -> int | None:
        """Bytes that can still be written; None where that has no answer."""

    def remove_stale_partials(self) -> list[str]:
        """Delete what killed writers left half-written, anywhere; the keys deleted. What cannot be deleted stays."""
