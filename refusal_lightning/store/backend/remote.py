"""Objects at a URL, through obstore."""

from __future__ import annotations

import bisect
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from itertools import chain
from typing import TYPE_CHECKING, Any

from refusal_lightning.errors import UserError
from refusal_lightning.store.backend.protocol import ObjectReader, Range
from refusal_lightning.store.errors import StoreError

if TYPE_CHECKING:
    from obstore.store import ObjectStore

WHOLE_BYTES = 64 << 20
"""Objects up to this size go up in one request; larger ones in parts, a few at once."""
PART_BYTES, _PARTS_AT_ONCE = 16 << 20, 4
_NO_CREDENTIALS = "169.254.169.254"
"""Whom obstore asks for credentials where there are none, on whatever machine it runs."""
_TAIL_BYTES = 1 << 16
"""Bytes that are asked for as an object is opened: its end, where a shard's index stands, comes with its size."""
_CONFLICTS, _CONFLICT_PAUSE = 6, 0.1
"""S3 answers 409 to a conditional PUT beside another request for the key: it is to be sent again."""
_NO_CONDITIONS = ("NotImplemented", "InvalidArgument", "501")
"""What endpoints that do not know If-None-Match say to it."""


class RemoteBackend:
    """Objects under a URL. A PUT is atomic on object storage."""

    def __init__(self, url: str, store: ObjectStore, prefix: str) -> None:
        """``store`` is a bucket or container, ``prefix`` the place in it."""
        self.url, self._store, self._prefix = url, store, prefix

    def read(self, key: str) -> bytes | None:
        with self._translated(key):
            try:
                return self._store.get(self._path(key)).bytes().to_bytes()
            except FileNotFoundError:
                return None

    def open(self, key: str) -> AbstractContextManager[ObjectReader]:
        return _RemoteReader(self, key)

    def write(self, key: str, parts: Iterable[list[Any]]) -> None:
        buffers = (memoryview(buffer).cast("B") for some in parts for buffer in some)
        with self._translated(key, writes=True):
            body = _body(buffers)
            if isinstance(body, bytes):
                self._store.put(self._path(key), body, use_multipart=False)
            else:
                self._store.put(self._path(key), body, chunk_size=PART_BYTES, max_concurrency=_PARTS_AT_ONCE)

    def create(self, key: str, data: bytes) -> bool:
        try:
            for attempt in range(_CONFLICTS):
                if self._put_new(key, data):
                    return True
                if self.size(key) is not None:
                    return False
                time.sleep(_CONFLICT_PAUSE * 2**attempt)
            raise StoreError(f"store {self.url}: {key!r} could not be put beside another request for it; start again")
        except StoreError as error:
            if any(word in str(error) for word in _NO_CONDITIONS):
                raise UserError(
                    f"store {self.url}: the endpoint does not take If-None-Match ({_line(error.__cause__)}), without "
                    "which two jobs could plan the same rows; choose an endpoint that knows it (AWS S3, GCS, MinIO "
                    "do), or a disk"
                ) from error
            raise

    def _put_new(self, key: str, data: bytes) -> bool:
        from obstore.exceptions import AlreadyExistsError

        with self._translated(key, writes=True):
            try:
                self._store.put(self._path(key), data, mode="create")
                return True
            except AlreadyExistsError:
                return False

    def sizes(self, folder: str) -> dict[str, int | None]:
        return {meta["path"].rpartition("/")[2]: meta["size"] for meta in self._listing(folder)["objects"]}

    def folders(self, folder: str) -> list[str]:
        return [prefix.rstrip("/").rpartition("/")[2] for prefix in self._listing(folder)["common_prefixes"]]

    def _listing(self, folder: str) -> Any:
        from obstore.exceptions import GenericError

        with self._translated(folder):
            try:
                return self._store.list_with_delimiter(self._path(folder))
            except (FileNotFoundError, GenericError) as error:
                if isinstance(error, GenericError) and "404 Not Found" not in str(error):
                    raise
                return {"objects": [], "common_prefixes": []}  # no such bucket, which writing says

    def delete(self, key: str) -> None:
        with self._translated(key), suppress(FileNotFoundError):
            self._store.delete(self._path(key))

    def delete_folder(self, folder: str) -> None:
        with self._translated(folder):
            for metas in self._store.list(self._path(folder)):
                self._store.delete([meta["path"] for meta in metas])

    def free_bytes(self) -> int | None:
        return None

    def remove_stale_partials(self) -> list[str]:
        return []

    def size(self, key: str) -> int | None:
        with self._translated(key):
            try:
                return int(self._store.head(self._path(key))["size"])
            except FileNotFoundError:
                return None

    def tail(self, key: str) -> tuple[int, memoryview]:
        """(size, last bytes) of an object. Raises FileNotFoundError."""
        from obstore.exceptions import GenericError, NotSupportedError

        with self._translated(key):
            try:
                found = self._store.get(self._path(key), options={"range": {"suffix": _TAIL_BYTES}})
                return found.meta["size"], memoryview(found.bytes())
            except (GenericError, NotSupportedError) as error:  # Azure gives no ends, and S3 none of an empty object
                with suppress(GenericError):  # which says less than the first: a HEAD's answer has no words
                    return int(self._store.head(self._path(key))["size"]), memoryview(b"")
                raise error

    def ranges(self, key: str, ranges: Sequence[Range]) -> list[memoryview]:
        """Parts of an object, requested together: what is near each other in one request. Raises FileNotFoundError."""
        starts, ends = [start for start, _ in ranges], [stop for _, stop in ranges]
        with self._translated(key):
            return [memoryview(part) for part in self._store.get_ranges(self._path(key), starts=starts, ends=ends)]

    def _path(self, key: str) -> str:
        return f"{self._prefix}/{key}".strip("/")

    @contextmanager
    def _translated(self, key: str, *, writes: bool = False) -> Iterator[None]:
        """Errors in the words of a person who wants to continue. FileNotFoundError passes when reading."""
        from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError

        try:
            yield
        except FileNotFoundError as error:
            if not writes:
                raise
            raise UserError(f"store {self.url} cannot be written: {_line(error)}; does the bucket exist?") from error
        except (PermissionDeniedError, UnauthenticatedError) as error:
            raise UserError(f"store {self.url}: access denied ({_line(error)}); check the credentials") from error
        except BaseError as error:
            said = _line(error)
            if _NO_CREDENTIALS in said:
                raise UserError(f"store {self.url}: no credentials were found ({said})") from error
            if "incorrectly configured region" in said:
                raise UserError(
                    f"store {self.url}: the bucket is in another region ({said}); give it as AWS_REGION, or as "
                    "store.options: {region: …}"
                ) from error
            raise StoreError(f"store {self.url}: request for {key!r} failed: {said}") from error


class _RemoteReader:
    """An object read in parts: its end comes with its size, and what is named ahead is fetched together."""

    def __init__(self, backend: RemoteBackend, key: str) -> None:
        self._backend, self._key = backend, key
        self.size, self._tail = backend.tail(key)
        self._starts: list[int] = []
        self._parts: list[tuple[Range, memoryview]] = []

    def __enter__(self) -> _RemoteReader:
        return self

    def __exit__(self, *exc: object) -> None:
        self._parts = []

    def prefetch(self, ranges: Sequence[Range]) -> None:
        ordered = sorted(ranges)
        self._starts = [start for start, _ in ordered]
        self._parts = list(zip(ordered, self._backend.ranges(self._key, ordered), strict=True))

    def read(self, start: int, stop: int, scratch: bytearray) -> Any:
        tail_start = self.size - len(self._tail)
        if start >= tail_start:
            return self._tail[start - tail_start : stop - tail_start]
        place = bisect.bisect_right(self._starts, start) - 1
        if place >= 0:
            (first, last), part = self._parts[place]
            if stop <= last:
                return part[start - first : stop - first]
        return self._backend.ranges(self._key, [(start, stop)])[0]


def _body(buffers: Iterator[memoryview]) -> bytes | Iterator[memoryview]:
    """What is put: the joined bytes of a small object, an iterator over a large one's buffers."""
    first: list[memoryview] = []
    size = 0
    for buffer in buffers:
        first.append(buffer)
        size += len(buffer)
        if size > WHOLE_BYTES:
            return chain(first, buffers)
    return b"".join(first)


def _line(error: BaseException | None) -> str:
    """One line of an error: what obstore says, and of the endpoint's XML the code and the message."""
    text = str(error).partition("\n\nDebug source")[0]
    said = ": ".join(re.findall(r"<(?:Code|Message)>(.*?)</", text))
    first = re.split(r"<[?!a-zA-Z]", text)[0].partition("\n")[0]
    return f"{first.rstrip(': ')}: {said}" if said else first.rstrip(": ")
