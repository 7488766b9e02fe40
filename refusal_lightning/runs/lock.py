"""Who works in a run's folder: a second job is told of the first, and does not mix its files with that one's."""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from refusal_lightning.errors import UserError

log = logging.getLogger(__name__)

BEAT = 10.0
"""Seconds between two signs of life of a holder."""
LOST = 120.0
"""A holder on another machine that gives no sign of life for so many seconds is gone."""
WAIT = 60.0
"""Seconds to wait for what is held for moments only."""

Fate = Literal["lives", "gone", "unknown"]


@contextmanager
def held(folder: Path, name: str, shuts_out: Sequence[str] = ()) -> Iterator[Callable[[], None]]:
    """Hold ``name`` in a folder, while none of ``shuts_out`` is held there; yields a check that it is still held.

    Raises UserError that names the holder where it, or one that it shuts out, is held by a process that lives. What a
    killed process left is taken over: at once on the same machine, else after ``LOST`` seconds without a sign of life.
    """
    lock = _Lock(folder, name)
    lock.take(wait=0.0)
    stop = threading.Event()
    threading.Thread(target=lock.beat, args=(stop,), daemon=True).start()
    try:
        # Each takes its own before it looks for others': of two that shut each other out, one at least sees the other.
        for other in shuts_out:
            holder = _Lock(folder, other).holder()
            if holder is not None:
                raise _in_use(folder, holder)
        yield lock.check
    finally:
        stop.set()
        lock.release()


@contextmanager
def held_for_a_moment(folder: Path, name: str) -> Iterator[None]:
    """The same for what takes moments: it is waited for."""
    lock = _Lock(folder, name)
    lock.take(wait=WAIT)
    try:
        yield
    finally:
        lock.release()


class _Lock:
    """A file that exists while something is held, and says who holds it."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._path = folder, folder / f".{name}.lock"
        self._mine = json.dumps({"name": name, **_this_process(), "id": uuid.uuid4().hex}).encode()

    def take(self, wait: float) -> None:
        deadline = time.monotonic() + wait
        while not self._create():
            holder = self.holder()
            if holder is not None and time.monotonic() >= deadline:
                raise _in_use(self._folder, holder)
            time.sleep(0.02)

    def holder(self) -> dict[str, Any] | None:
        """Who holds it; None where nobody does. What a dead process left is removed."""
        found = _read(self._path)
        if found is None:
            return None
        holder = _parsed(found)
        fate = _fate(holder)
        if (self._watch(found) if fate == "unknown" else fate) == "lives":
            return holder
        self._remove(found)
        return None

    def check(self) -> None:
        """Raise UserError where another process has taken it over, as when this one stood still for long."""
        if _read(self._path) != self._mine:
            raise UserError(
                f"{self._folder} was taken over by another job while this one gave no sign of life; start again to "
                "continue"
            )

    def beat(self, stop: threading.Event) -> None:
        while not stop.wait(BEAT):
            with suppress(OSError):
                os.utime(self._path)

    def release(self) -> None:
        if _read(self._path) == self._mine:
            self._path.unlink(missing_ok=True)

    def _create(self) -> bool:
        """Whether it was put there: with its content, so that no one comes upon an empty one and cannot tell whose."""
        aside = self._aside()
        try:
            aside.write_bytes(self._mine)
            try:
                os.link(aside, self._path)
            except FileExistsError:
                return _read(self._path) == self._mine  # NFS may send a link twice
            except OSError:  # no links here
                with self._path.open("xb") as file:
                    file.write(self._mine)
        except FileExistsError:
            return False
        finally:
            aside.unlink(missing_ok=True)
        return True

    def _aside(self) -> Path:
        return self._path.with_name(f"{self._path.name}.{uuid.uuid4().hex}")

    def _watch(self, found: bytes) -> Fate:
        """Look for signs of life, by this machine's clock alone: those of two machines may differ."""
        seen, since = _changed(self._path), time.monotonic()
        log.info(f"waiting up to {LOST:.0f} s to see whether {_who(_parsed(found))} still works in {self._folder}")
        while time.monotonic() - since < LOST:
            time.sleep(min(1.0, LOST / 10))
            content = _read(self._path)
            if content is None:
                return "gone"
            if content != found or _changed(self._path) != seen:
                return "lives"
        return "gone"

    def _remove(self, found: bytes) -> None:
        """Remove what was found, and nothing that another process has put in its place meanwhile."""
        aside = self._aside()
        with suppress(FileNotFoundError):
            self._path.rename(aside)
            if _read(aside) != found:
                with suppress(OSError):
                    os.link(aside, self._path)
            aside.unlink(missing_ok=True)


def _in_use(folder: Path, holder: dict[str, Any]) -> UserError:
    return UserError(
        f"{folder} is in use by {_who(holder)}; wait for it to end, or give this run another model.alias or runs.root"
    )


def _who(holder: dict[str, Any]) -> str:
    stage = f"`{holder['name']}`, " if "name" in holder else ""
    return f"{stage}process {holder.get('pid', 'unknown')} on {holder.get('host', 'an unknown machine')}"


def _this_process() -> dict[str, Any]:
    """What tells this process from all others: its number is that of others on other machines and in containers."""
    boot, namespace = _machine()
    pid = os.getpid()
    return {
        "host": socket.gethostname(),
        "pid": pid,
        "boot": boot,
        "namespace": namespace,
        "started": _started(pid),
    }


def _machine() -> tuple[str, str]:
    """The boot of this machine and the namespace of its process numbers; empty where the system does not say."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return boot, str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return "", ""


def _started(pid: int) -> str:
    """When a process started, in ticks since the boot; empty where there is none, or only its exit status is left."""
    try:
        about = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return "" if about[0] in ("Z", "X") else about[19]
    except (OSError, IndexError):
        return ""


def _fate(holder: dict[str, Any]) -> Fate:
    boot, namespace = _machine()
    if not boot or (holder.get("boot"), holder.get("namespace")) != (boot, namespace):
        return "unknown"
    return "lives" if _started(int(holder["pid"])) == holder.get("started") else "gone"


def _parsed(content: bytes) -> dict[str, Any]:
    try:
        value = json.loads(content)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _changed(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return -1
