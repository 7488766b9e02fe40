"""How much memory is free for a second copy of a model."""

from __future__ import annotations

from pathlib import Path

import torch


def free_memory(device: str | torch.device) -> int | None:
    """Bytes free for weights on a device, which pass through the host's memory first; None where nobody says."""
    free = [host_free_memory()]
    device = torch.device(device)
    if device.type == "cuda":
        free.append(torch.cuda.mem_get_info(device)[0])
    return None if None in free else min(amount for amount in free if amount is not None)


def host_free_memory(root: Path = Path("/")) -> int | None:
    """What Linux calls available, or less where a batch system's or container's limit (cgroup v2) leaves less."""
    try:
        meminfo = (root / "proc/meminfo").read_text().splitlines()
        (available,) = (int(line.split()[1]) * 1024 for line in meminfo if line.startswith("MemAvailable:"))
    except (OSError, ValueError):
        return None
    return min([available, *_cgroup_rooms(root)])


def _cgroup_rooms(root: Path) -> list[int]:
    """What each limit above this process leaves; pages of files count as free, since they are given up first."""
    top = root / "sys/fs/cgroup"
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    own = next((line.removeprefix("0::").strip("/") for line in lines if line.startswith("0::")), "")
    rooms = []
    for folder in (top / own, *(top / own).parents):
        if not folder.is_relative_to(top):
            break
        try:
            limit, used = ((folder / f"memory.{name}").read_text().strip() for name in ("max", "current"))
            stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        except OSError:
            continue
        if limit != "max":
            rooms.append(int(limit) - int(used) + int(stat.get("inactive_file", 0)))
    return rooms
