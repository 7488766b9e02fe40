"""Who is writing a file: host, boot, namespace of process numbers, number and start of the process."""

from __future__ import annotations

import os
import re
import socket
from functools import cache
from pathlib import Path

_PARTIAL = re.compile(r".*\.(?P<world>\w+-\w*-\w*)-(?P<pid>\d+)-(?P<start>\w*)\.[0-9a-f]+\.partial")


def partial_name(name: str, unique: str) -> str:
    """Where a file of this name is put together; says by whom, so that what a dead writer left can be told."""
    return f"{name}.{_world()}-{os.getpid()}-{_start_of(os.getpid()) or ''}.{unique}.partial"


def is_dead(name: str) -> bool | None:
    """Whether the writer of a partial file has ended; None where that cannot be told from here.

    A process number says something only on the same host, since the same boot, in the same PID namespace; and only
    together with when the process started, since numbers are given anew.
    """
    found = _PARTIAL.fullmatch(name)
    if found is None or found["world"] != _world() or not _boot() or not found["start"]:
        return None
    return _start_of(int(found["pid"])) != found["start"]


@cache
def _world() -> str:
    host = "".join(c if c.isalnum() else "_" for c in socket.gethostname()) or "host"
    return f"{host}-{_boot()}-{_namespace()}"


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", "")[:12]
    except OSError:
        return ""


def _namespace() -> str:
    try:
        return "".join(c for c in str(Path("/proc/self/ns/pid").readlink()) if c.isdigit())
    except OSError:
        return ""


def _start_of(pid: int) -> str | None:
    """When a process started, in ticks since boot; None if there is none (or no /proc)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None
