"""Objects at a URL, through zarr's fsspec store."""

from __future__ import annotations

import asyncio
import bisect
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from zarr.abc.store import RangeByteRequest
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import FsspecStore

from refusal_lightning.errors import UserError
from refusal_lightning.store.backend.protocol import ObjectReader, Range
from refusal_lightning.store.errors import StoreError

T = TypeVar("T")

_SCHEMES = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "sftp", "ssh", "memory")
"""Places that objects can be written to. Others of fsspec's run or unpack what they are told to, or only read."""
_TOGETHER = 16
"""Requests in flight at once."""
_CONFLICTS, _CONFLICT_PAUSE = 6, 0.1
"""S3 answers 409 to a conditional PUT beside another request for the key: it is to be sent again."""
_UNKNOWN = ("NotImplemented", "InvalidArgument", "501")
"""What endpoints that do not know If-None-Match say to it."""


class RemoteBackend:
    """Objects under a URL. A PUT is atomic on object storage."""

    def __init__(self, url: str, storage_options: dict[str, Any]) -> None:
        self.url = url.rstrip("/")
        scheme = url.partition("://")[0]
        if scheme not in _SCHEMES:
            raise UserError(f"a store cannot be kept at {scheme}://; known are {', '.join(_SCHEMES)}")
        try:
            self._store = FsspecStore.from_url(self.url, storage_options=storage_options)
        except ImportError as error:
            raise UserError(f"{scheme}:// stores need a package that is not installed: {error}") from error
        except (ValueError, TypeError) as error:
            raise UserError(f"store {url} cannot be opened: {error}") from error

    def read(self, key: str) -> bytes | None:
        buffer = self._run(self._store.get(key, default_buffer_prototype()), key)
        return None if buffer is None else buffer.to_bytes()

    def open(self, key: str) -> AbstractContextManager[ObjectReader]:
        return _RemoteReader(self, key)

    def write(self, key: str, parts: Iterable[list[Any]]) -> None:
        data = b"".join(memoryview(buffer).cast("B") for buffers in parts for buffer in buffers)
        buffer = default_buffer_prototype().buffer.from_bytes(data)
        try:
            self._run(self._store.set(key, buffer), key)
        except FileNotFoundError as error:
            raise UserError(f"store {self.url} cannot be written: {error}; does the bucket exist?") from error

    def create(self, key: str, data: bytes) -> bool:
        async def put() -> bool:
            for attempt in range(_CONFLICTS):
                try:
                    await self._store.fs._pipe_file(f"{self._store.path}/{key}", data, mode="create")
                    return True
                except FileExistsError:
                    return False
                except OSError as error:
                    if attempt == _CONFLICTS - 1 or "ConditionalRequestConflict" not in _said(error):
                        raise
                    await asyncio.sleep(_CONFLICT_PAUSE * 2**attempt)
            return False

        try:
            return bool(self._run(put(), key))
        except FileNotFoundError as error:
            raise UserError(f"store {self.url} cannot be written: {error}; does the bucket exist?") from error
        except StoreError as error:
            if any(word in _said(error) for word in _UNKNOWN):
                raise UserError(
                    f"store {self.url}: the endpoint refuses If-None-Match ({error.__cause__}), without which two jobs "
                    "could plan the same rows; choose an endpoint that knows it (AWS S3, GCS, MinIO do), or a disk"
                ) from error
            raise

    def sizes(self, folder: str) -> dict[str, int | None]:
        return {name: size for name, size, is_file in self._listing(folder) if is_file}

    def folders(self, folder: str) -> list[str]:
        return [name for name, _, is_file in self._listing(folder) if not is_file]

    def _listing(self, folder: str) -> list[tuple[str, int | None, bool]]:
        async def ls() -> list[dict[str, Any]]:
            path = f"{self._store.path}/{folder}".rstrip("/")
            try:
                return list(await self._store.fs._ls(path, detail=True, refresh=True))
            except FileNotFoundError:
                return []

        entries = self._run(ls(), folder)
        return [(e["name"].rstrip("/").rpartition("/")[2], e.get("size"), e["type"] == "file") for e in entries]

    def delete(self, key: str) -> None:
        self._run(self._store.delete(key), key)

    def delete_folder(self, folder: str) -> None:
        self._run(self._store.delete_dir(folder), folder)

    def free_bytes(self) -> int | None:
        return None

    def remove_stale_partials(self) -> list[str]:
        return []

    def size(self, key: str) -> int | None:
        try:
            return int(self._run(self._store.getsize(key), key))
        except FileNotFoundError:
            return None

    def ranges(self, key: str, ranges: Sequence[Range]) -> list[bytes]:
        """Parts of an object, requested together."""

        async def get() -> list[bytes]:
            limit = asyncio.Semaphore(_TOGETHER)

            async def one(part: Range) -> bytes:
                async with limit:
                    buffer = await self._store.get(key, default_buffer_prototype(), RangeByteRequest(*part))
                if buffer is None:
                    raise FileNotFoundError(key)
                return buffer.to_bytes()

            return list(await asyncio.gather(*(one(part) for part in ranges)))

        return self._run(get(), key)

    def _run(self, coroutine: Any, key: str) -> Any:
        try:
            return sync(coroutine)
        except (FileNotFoundError, FileExistsError):
            raise
        except PermissionError as error:
            raise UserError(f"store {self.url}: access denied ({error}); check the credentials") from error
        except Exception as error:
            name = type(error).__name__
            raise StoreError(f"store {self.url}: request for {key!r} failed: {name}: {error}") from error


class _RemoteReader:
    """An object read in parts: what is named ahead is fetched together, neighbours in one request."""

    def __init__(self, backend: RemoteBackend, key: str) -> None:
        self._backend, self._key = backend, key
        size = backend.size(key)
        if size is None:
            raise FileNotFoundError(key)
        self.size = size
        self._parts: dict[Range, bytes] = {}
        self._ordered: list[Range] = []

    def __enter__(self) -> _RemoteReader:
        return self

    def __exit__(self, *exc: object) -> None:
        self._parts = {}

    def prefetch(self, ranges: Sequence[Range]) -> None:
        self._ordered = _merge(ranges)
        self._parts = dict(zip(self._ordered, self._backend.ranges(self._key, self._ordered), strict=True))

    def read(self, start: int, stop: int, scratch: bytearray) -> Any:
        place = bisect.bisect_right(self._ordered, start, key=lambda part: part[0]) - 1
        if place >= 0 and stop <= self._ordered[place][1]:
            part = self._ordered[place]
            return memoryview(self._parts[part])[start - part[0] : stop - part[0]]
        return memoryview(self._backend.ranges(self._key, [(start, stop)])[0])


def _merge(ranges: Sequence[Range], most: int = 64 << 20) -> list[Range]:
    """Neighbouring ranges joined, up to ``most`` bytes each."""
    merged: list[Range] = []
    for start, stop in sorted(ranges):
        if merged and start <= merged[-1][1] and stop - merged[-1][0] <= most:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        else:
            merged.append((start, stop))
    return merged


def _said(error: BaseException | None) -> str:
    """All that an error and its causes say: fsspec passes on the words of an endpoint, and only sometimes its code."""
    words = []
    while error is not None:
        words.append(f"{type(error).__name__} {error} {getattr(error, 'response', '')}")
        error = error.__cause__
    return " ".join(words)
