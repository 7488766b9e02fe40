"""The processes of one run keep company: they run the same thing, and none outlives another's failure."""

from __future__ import annotations

import _thread
import functools
import inspect
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from refusal_lightning.config import TrainerConfig
from refusal_lightning.errors import UserError
from refusal_lightning.files import writable_folder, write_bytes
from refusal_lightning.models.chat_model import DeviceMap
from refusal_lightning.stages.console import say
from refusal_lightning.stages.versions import package_versions
from refusal_lightning.stages.watch import Watch

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

PATIENCE = 90.0
"""Seconds that a process waits to see a file that another one has written."""
STOPPED = 143
"""Exit status of a process that stopped because it was told to: 128 + SIGTERM."""


def in_company(stage: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """A stage that may run in several processes, as its argument ``trainer`` says.

    They meet before anything else, with the versions of their packages and their configuration; a difference is a
    UserError that names it. From then on, a process that ends before its work is done takes the others down.
    """

    @functools.wraps(stage)
    def run(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        global _asked
        _asked = False
        given: dict[str, Any] = inspect.signature(stage).bind(*args, **kwargs).arguments
        trainer: TrainerConfig = given["trainer"]
        sections = {name: asdict(value) for name, value in given.items() if is_dataclass(value)}  # type: ignore[arg-type]
        facts = {**_flat(sections), **package_versions()}
        alone = trainer.devices in (1, "1") and trainer.num_nodes == 1
        try:
            with nullcontext() if alone else _company(trainer, given["model"].device_map, facts):
                return stage(*args, **kwargs)
        except SystemExit as end:
            if end.code == STOPPED:
                say("stopped before the work was done, as asked; the same command continues")
            raise

    return run


def agree(facts: Mapping[str, object]) -> None:
    """Raise UserError where a fact is not the same in all processes of the run (one line, by the first process)."""
    differ = list(_differences(_gathered((socket.gethostname(), dict(facts)))))
    if differ:
        message = f"the processes of this run differ: {'; '.join(differ[:3])}" + (" ..." if len(differ) > 3 else "")
        raise UserError(message) if _rank() == 0 else SystemExit(2)


def wait_for_files(own: Mapping[Path, int]) -> None:
    """Until every process of the run sees the files that all have written, given as a path and its size in bytes.

    Raises UserError where one does not within ``PATIENCE``, by far longer than network file systems need.
    """
    gathered = _gathered((socket.gethostname(), {str(path): size for path, size in own.items()}))
    deadline = time.monotonic() + PATIENCE
    for rank, (node, files) in enumerate(gathered):
        for path, size in files.items():
            while not _has(path, size):
                if time.monotonic() > deadline:
                    raise UserError(
                        f"process {rank} on {node} wrote {path}, and {socket.gethostname()} does not see it; all nodes "
                        "of a run need a shared folder there"
                    )
                time.sleep(0.2)


def _has(path: str, size: int) -> bool:
    try:
        with Path(path).open(
            "rb"
        ) as file:  # opening asks the server of a network file system, its cached size may be old
            return file.seek(0, os.SEEK_END) >= size
    except OSError:
        return False


def require_shared(folder: str | Path, key: str, unless: Callable[[], bool] = lambda: False) -> None:
    """Raise UserError where a local folder, given by a key, is not the same one for all processes of the run.

    That takes a file in it, so not where ``unless`` holds in every process: nothing is to be written then.
    """
    if not _together() or "://" in str(folder) or all(_gathered(unless())):
        return
    mark = Path(folder) / f".seen-by-all-{os.getpid()}"
    if _rank() == 0:
        writable_folder(folder, key)
        write_bytes(mark, b".")
    try:
        wait_for_files({mark: 1} if _rank() == 0 else {})
        wait_for_all()
    finally:
        if _rank() == 0:
            mark.unlink(missing_ok=True)


def ask_to_stop() -> None:
    """Have this process and the others stop when what is at hand is written."""
    global _asked
    _asked = True
    if _watch is not None:
        _watch.ask_to_stop()


def check_company() -> bool:
    """Whether this process is to stop. Ends it at once if another one was lost."""
    if _watch is not None and _watch.is_lost():
        raise SystemExit(1)
    return _asked or (_watch is not None and _watch.asked_to_stop)


@contextmanager
def at_hand() -> Iterator[None]:
    """While something must not be left half done: being told to stop is noted, and acted upon later."""
    global _at_hand
    _at_hand += 1
    try:
        yield
    finally:
        _at_hand -= 1


def wait_for_all() -> None:
    """Until every process of the run is here; nothing where there is one process, or none has started others yet.

    Where any of them was told to stop, all end here together with status ``STOPPED``: none ends while another has
    something at hand, since a launcher may kill the rest as soon as one has ended.
    """
    global _all_stop
    if not _together():
        return
    with at_hand():
        _all_stop = _any_stops(check_company())
    if _all_stop:
        raise SystemExit(STOPPED)


def _any_stops(this: bool) -> bool:
    """Whether any process of the run stops here. All must ask, in whatever part of the work each is."""
    import torch

    stops = torch.tensor([int(this)])
    work = torch.distributed.all_reduce(stops, torch.distributed.ReduceOp.MAX, async_op=True)
    pause = 0.0005
    while not work.is_completed():  # a wait in torch itself would hold signals up
        check_company()
        time.sleep(pause)
        pause = min(2 * pause, 0.02)
    work.wait()
    return bool(stops)


def _told(*_: object) -> None:
    """The signal's handler: act at once where nothing is at hand."""
    ask_to_stop()
    if not _at_hand:
        raise SystemExit(STOPPED)


@contextmanager
def _listening() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _told)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _company(trainer: TrainerConfig, device_map: DeviceMap | None, facts: Mapping[str, object]) -> Iterator[None]:
    from refusal_lightning.stages.trainer import meet

    global _watch, _all_stop
    _all_stop = False
    meet(trainer, device_map)
    if not _together():
        yield
        return
    agree(facts)
    # What another process says is as if the signal had come here.
    _watch = Watch(_gathered(socket.gethostname()), _rank(), lambda: _thread.interrupt_main(signal.SIGTERM))
    try:
        with _listening():
            try:
                yield
            except SystemExit as end:
                with at_hand():
                    if end.code == STOPPED:
                        _stop_together()
                raise
    except (UserError, KeyboardInterrupt, SystemExit):
        raise
    except Exception:
        if _watch.asked_to_stop:
            raise SystemExit(STOPPED) from None
        if _watch.is_lost(within=3.0):  # what went wrong here is only that the other one is gone
            raise SystemExit(1) from None
        raise
    else:
        _watch.say_goodbye()


def _stop_together() -> None:
    ask_to_stop()
    if not _all_stop:
        with suppress(RuntimeError):  # one was killed meanwhile: there is nobody left to wait for
            _any_stops(True)
    if _watch is not None:
        _watch.say_goodbye()


_watch: Watch | None = None
_asked = False
_all_stop = False
_at_hand = 0


def _together() -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized()


def _rank() -> int:
    import torch

    return torch.distributed.get_rank() if _together() else 0


def _gathered(value: Any) -> list[Any]:
    """The value of each process, by rank."""
    import torch

    if not _together():
        return [value]
    values: list[Any] = [None] * torch.distributed.get_world_size()
    with at_hand():
        wait_for_all()  # where one stops, nobody waits for it in torch
        torch.distributed.all_gather_object(values, value)
    return values


def _differences(gathered: list[tuple[str, dict[str, object]]]) -> Iterator[str]:
    first_node, first = gathered[0]
    for rank, (node, facts) in enumerate(gathered):
        for name in first:
            if facts.get(name) != first[name]:
                here = f"in process {rank} on {node}"
                yield f"{name} is {facts.get(name)} {here} and {first[name]} in process 0 on {first_node}"


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, object]:
    """Nested mappings as one of dotted keys."""
    found: dict[str, object] = {}
    for key, value in tree.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return found
