"""Files and objects by key: the same few operations on a local disk and at a URL."""

from __future__ import annotations

import errno
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any, TypeVar

from refusal_lightning.io.files import replacing, sync_folder
from refusal_lightning.store.backend import owner
from refusal_lightning.store.backend.os_errors import translate_os_errors
from refusal_lightning.store.backend.protocol import ObjectReader, Range

Result = TypeVar("Result")

_WRITE_BACK = 8 << 20
"""Bytes after which the disk is set to work."""
_AT_ONCE = 1024
"""Buffers that one system call takes."""
_LEFT_SECONDS = 12 * 3600
"""A partial file that has not grown for so long is no one's, whoever made it."""
_STALE_TRIES = 3
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}
"""What file systems without hard links say (vfat, exfat, some FUSE and SMB mounts)."""


class LocalBackend:
    """Objects as files under a folder."""

    def __init__(self, root: Path) -> None:
        self.root, self.url = root, str(root)

    def read(self, key: str) -> bytes | None:
        with translate_os_errors(self.url, key, "read"):
            try:
                return _afresh((self.root / key).read_bytes)
            except (FileNotFoundError, NotADirectoryError):
                return None

    def open(self, key: str) -> AbstractContextManager[ObjectReader]:
        with translate_os_errors(self.url, key, "read"):
            return _afresh(lambda: _LocalReader(self.root / key, self.url))

    def write(self, key: str, parts: Iterable[list[Any]]) -> None:
        path = self.root / key
        with translate_os_errors(self.url, key):
            _make_folder(path.parent)
            with replacing(path, _partial(path)) as file:
                _write_parts(file.fileno(), parts)

    def create(self, key: str, data: bytes) -> bool:
        path = self.root / key
        partial = _partial(path)
        with translate_os_errors(self.url, key):
            _make_folder(path.parent)
            try:
                _write_new(partial, data)
                path.hardlink_to(partial)  # unlike O_EXCL, the file is never there without its content
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                try:
                    _write_new(path, data)
                except FileExistsError:
                    return False
                except BaseException:
                    path.unlink(missing_ok=True)  # half of it would be taken for all
                    raise
            finally:
                partial.unlink(missing_ok=True)
            sync_folder(path.parent)
        return True

    def sizes(self, folder: str) -> dict[str, int | None]:
        def listed() -> dict[str, int | None]:
            found: dict[str, int | None] = {}
            with suppress(FileNotFoundError, NotADirectoryError), os.scandir(self.root / folder) as entries:
                for entry in entries:
                    with suppress(FileNotFoundError):  # a partial file that got its name in the meantime
                        if entry.is_file():
                            found[entry.name] = entry.stat().st_size
            return found

        with translate_os_errors(self.url, folder, "read"):
            return _afresh(listed)

    def size(self, key: str) -> int | None:
        try:
            return _afresh((self.root / key).stat).st_size
        except (FileNotFoundError, NotADirectoryError):
            return None

    def folders(self, folder: str) -> list[str]:
        try:
            with os.scandir(self.root / folder) as entries:
                return [entry.name for entry in entries if entry.is_dir()]
        except (FileNotFoundError, NotADirectoryError):
            return []

    def delete(self, key: str) -> None:
        with translate_os_errors(self.url, key):
            (self.root / key).unlink(missing_ok=True)

    def delete_folder(self, folder: str) -> None:
        shutil.rmtree(self.root / folder, ignore_errors=True)

    def free_bytes(self) -> int | None:
        folder = self.root.absolute()
        while not folder.is_dir():
            folder = folder.parent
        return shutil.disk_usage(folder).free

    def remove_stale_partials(self) -> list[str]:
        swept = []
        now = time.time()
        for folder, _, names in os.walk(self.root):
            for name in names:
                path = Path(folder, name)
                if name.endswith(".partial") and _is_left(path, now):
                    with suppress(OSError):
                        path.unlink()
                        swept.append(str(path.relative_to(self.root)))
        return sorted(swept)


class _LocalReader:
    """A file opened for reading, from several threads if need be."""

    def __init__(self, path: Path, url: str) -> None:
        self._url, self._name, self._path = url, path.name, path
        self._fd = os.open(path, os.O_RDONLY)
        self.size = os.fstat(self._fd).st_size

    def __enter__(self) -> _LocalReader:
        return self

    def __exit__(self, *exc: object) -> None:
        os.close(self._fd)

    def prefetch(self, ranges: Sequence[Range]) -> None:
        pass

    def read(self, start: int, stop: int, scratch: bytearray) -> Any:
        if len(scratch) < stop - start:
            scratch.extend(bytes(stop - start - len(scratch)))
        view = memoryview(scratch)[: stop - start]
        done = 0
        while done < len(view):
            with translate_os_errors(self._url, self._name, "read"):
                count = self._read_into(view[done:], start + done)
            if not count:
                return view[:done]
            done += count
        return view

    def _read_into(self, view: memoryview, start: int) -> int:
        try:
            return os.preadv(self._fd, [view], start)
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
        opened = os.open(self._path, os.O_RDONLY)  # replaced, by the same bytes: a shard has no others
        os.dup2(opened, self._fd)  # in place: other threads may be reading
        os.close(opened)
        return os.preadv(self._fd, [view], start)


def _partial(path: Path) -> Path:
    return path.with_name(owner.partial_name(path.name, uuid.uuid4().hex[:12]))


def _is_left(partial: Path, now: float) -> bool:
    """Whether nobody is writing a partial file any more: its process has ended, or it has not grown for hours."""
    dead = owner.is_dead(partial.name)
    if dead is None:
        with suppress(OSError):
            return now - partial.stat().st_mtime > _LEFT_SECONDS
    return bool(dead)


def _afresh(look: Callable[[], Result]) -> Result:
    """Once more where NFS says that another node has just replaced the file."""
    for _ in range(_STALE_TRIES):
        try:
            return look()
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
    return look()


def _write_new(path: Path, data: bytes) -> None:
    """Write a file that is not there yet; on the disk when it returns. Raises FileExistsError."""
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _make_folder(folder: Path) -> None:
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def _write_parts(fd: int, parts: Iterable[list[Any]]) -> None:
    written = started = 0
    for buffers in parts:
        for first in range(0, len(buffers), _AT_ONCE):
            written += _write_together(fd, buffers[first : first + _AT_ONCE])
        if written - started >= _WRITE_BACK and hasattr(os, "posix_fadvise"):
            # Linux begins to write these pages to the disk, and keeps them cached since they are dirty: when fsync
            # comes, most is done. Without it the disk idles until the whole shard is in memory.
            os.posix_fadvise(fd, started, written - started, os.POSIX_FADV_DONTNEED)
            started = written


def _write_together(fd: int, buffers: list[Any]) -> int:
    total = sum(memoryview(buffer).nbytes for buffer in buffers)
    done = os.writev(fd, buffers)
    if done < total:
        rest = memoryview(b"".join(memoryview(buffer).cast("B") for buffer in buffers))[done:]
        while len(rest):
            rest = rest[os.write(fd, rest) :]
    return total
