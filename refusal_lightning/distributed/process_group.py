"""The processes of one run together: they wait for each other, and see that they run the same thing."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from refusal_lightning.distributed.shutdown import (
    EXIT_TERMINATED,
    defer_shutdown,
    shutdown_requested,
    state,
)
from refusal_lightning.errors import UserError
from refusal_lightning.io.files import writable_folder, write_bytes

FILE_VISIBLE_S = 90.0
"""Seconds that a process waits to see a file that another one has written."""


def is_distributed() -> bool:
    """Whether this process is one of several that have met."""
    torch = sys.modules.get("torch")
    return torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized()


def get_rank() -> int:
    """This process's number among those of the run."""
    import torch

    return torch.distributed.get_rank() if is_distributed() else 0


def barrier() -> None:
    """Until every process of the run is here; nothing where there is one process, or none has started others yet.

    Where any of them was told to stop, all end here together with status ``EXIT_TERMINATED``: none ends while another
    has something at hand, since a launcher may kill the rest as soon as one has ended.
    """
    if not is_distributed():
        return
    with defer_shutdown():
        state.agreed = any_rank_stops(shutdown_requested())
    if state.agreed:
        raise SystemExit(EXIT_TERMINATED)


def leave_process_group() -> None:
    """Go on alone: from here on this process is one by itself, and waits for no other. Nothing where it was alone."""
    if is_distributed():
        import torch

        torch.distributed.destroy_process_group()


def announce_end() -> None:
    """Tell the other processes that this one ends, and that they need not: all of them know that there is no way on."""
    if state.watchdog is not None:
        state.watchdog.announce_exit()


def stop_if_requested() -> None:
    """End here with status ``EXIT_TERMINATED`` if this process, or any other of the run, was told to stop.

    Every process of the run must call this, when it has nothing at hand.
    """
    barrier()
    if shutdown_requested():
        raise SystemExit(EXIT_TERMINATED)


def any_rank_stops(this: bool) -> bool:
    """Whether any process of the run stops here. All must ask, in whatever part of the work each is."""
    import torch

    stops = torch.tensor([int(this)])
    work = torch.distributed.all_reduce(stops, torch.distributed.ReduceOp.MAX, async_op=True)
    pause = 0.0005
    while not work.is_completed():  # a wait in torch itself would hold signals up
        shutdown_requested()
        time.sleep(pause)
        pause = min(2 * pause, 0.02)
    work.wait()
    return bool(stops)


def gather_objects(value: Any) -> list[Any]:
    """The value of each process, by rank."""
    import torch

    if not is_distributed():
        return [value]
    values: list[Any] = [None] * torch.distributed.get_world_size()
    with defer_shutdown():
        barrier()  # where one stops, nobody waits for it in torch
        torch.distributed.all_gather_object(values, value)
    return values


def require_same_on_all_ranks(facts: Mapping[str, object]) -> None:
    """Raise UserError where a fact is not the same in all processes of the run (one line, by the first process)."""
    differ = list(_differences(gather_objects((socket.gethostname(), dict(facts)))))
    if differ:
        message = f"the processes of this run differ: {'; '.join(differ[:3])}" + (" ..." if len(differ) > 3 else "")
        raise UserError(message) if get_rank() == 0 else SystemExit(2)


def wait_until_visible(own: Mapping[Path, int]) -> None:
    """Until every process of the run sees the files that all have written, given as a path and its size in bytes.

    Raises UserError where one does not within ``FILE_VISIBLE_S``, by far longer than network file systems need.
    """
    gathered = gather_objects((socket.gethostname(), {str(path): size for path, size in own.items()}))
    deadline = time.monotonic() + FILE_VISIBLE_S
    seen: set[tuple[str, int]] = set()
    for rank, (node, files) in enumerate(gathered):
        for path, size in files.items() - seen:
            while not _has(path, size):
                if time.monotonic() > deadline:
                    raise UserError(
                        f"process {rank} on {node} wrote {path}, and {socket.gethostname()} does not see it; all nodes "
                        "of a run need a shared folder there"
                    )
                time.sleep(0.2)
        seen |= files.items()


def wait_for_folder(folder: Path) -> None:
    """Until every process of the run sees each file below a folder that any of them sees.

    For what one process has written and all read next, without a start of processes between. Hidden files and partial
    ones do not count. Raises UserError.
    """
    if not is_distributed():
        return
    found: dict[Path, int] = {}
    for path in folder.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if not hidden and path.suffix != ".partial":
            with suppress(FileNotFoundError):
                if path.is_file():
                    found[path] = path.stat().st_size
    wait_until_visible(found)


def require_shared_folder(folder: str | Path, key: str, unless: Callable[[], bool] = lambda: False) -> None:
    """Raise UserError where a local folder, given by a key, is not the same one for all processes of the run.

    That takes a file in it, so not where ``unless`` holds in every process: nothing is to be written then.
    """
    if not is_distributed() or "://" in str(folder) or all(gather_objects(unless())):
        return
    mark = Path(folder) / f".seen-by-all-{os.getpid()}"
    if get_rank() == 0:
        writable_folder(folder, key)
        write_bytes(mark, b".")
    try:
        wait_until_visible({mark: 1} if get_rank() == 0 else {})
        barrier()
    finally:
        if get_rank() == 0:
            mark.unlink(missing_ok=True)


def _has(path: str, size: int) -> bool:
    try:
        # Opening asks the server of a network file system: its cached size may be old.
        with Path(path).open("rb") as file:
            return file.seek(0, os.SEEK_END) >= size
    except OSError:
        return False


def _differences(gathered: list[tuple[str, dict[str, object]]]) -> Iterator[str]:
    first_node, first = gathered[0]
    for rank, (node, facts) in enumerate(gathered):
        for name in first:
            if facts.get(name) != first[name]:
                here = f"in process {rank} on {node}"
                yield f"{name} is {facts.get(name)} {here} and {first[name]} in process 0 on {first_node}"
