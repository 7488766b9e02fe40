"""How much main memory this process may use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import torch

KEPT_SHARE = 0.5
"""Share of the free memory that may be filled with what could be computed again."""
LIMITS = {"": ("", "memory.max"), "memory": ("memory", "memory.limit_in_bytes")}
"""By a control group's controllers (version 2 names none): where its folders are, and the file with the limit."""


def host_memory(proc: Path = Path("/proc/self/cgroup"), groups: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes: the machine's, or the least that a control group of this process has, by which containers and schedulers
    limit it (both versions; a group is also held to what the groups above it have)."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([total, *_limits(proc, groups)])


def room_to_keep(device: torch.device, processes: int = 1) -> float:
    """Bytes that a process may fill with what it can compute again, on a device that so many processes share."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return KEPT_SHARE * free
    own = psutil.Process().memory_info().rss
    return KEPT_SHARE * max(0, min(psutil.virtual_memory().available, host_memory() - own)) / processes


def _limits(proc: Path, groups: Path) -> Iterator[int]:
    try:
        lines = proc.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        for name in LIMITS.keys() & controllers.split(","):
            folder, file = LIMITS[name]
            top = groups / folder
            group = top / path.strip("/")
            for each in (group, *group.parents):
                with suppress(OSError, ValueError):  # not there, as seen from within a container, or "max"
                    yield int((each / file).read_text())
                if each == top:
                    break
