"""The processes of one run keep company: they run the same thing, and none outlives another's failure."""

from __future__ import annotations

import functools
import inspect
import os
import secrets
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from refusal_lightning.config import TrainerConfig
from refusal_lightning.errors import UserError
from refusal_lightning.files import writable_folder, write_bytes
from refusal_lightning.models.chat_model import DeviceMap
from refusal_lightning.stages.console import wait_for_all
from refusal_lightning.stages.versions import package_versions

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

GRACE = 15.0
"""Seconds that a process has to end by itself once another one is lost."""
PATIENCE = 90.0
"""Seconds that a process waits to see a file that another one has written."""
SILENCE = 40
"""Seconds without an answer from a machine after which it counts as lost."""
TOGETHER = 60.0
"""Seconds that a process that was told to stop waits for the others to stop too."""
STOPPED = 143
"""Exit status of a process that stopped because it was told to: 128 + SIGTERM."""

# What processes say to each other, a byte each.
GOODBYE, ASK_TO_STOP, AT_REST = b".", b"?", b"s"


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
        if trainer.devices in (1, "1") and trainer.num_nodes == 1:
            return stage(*args, **kwargs)
        sections = {name: asdict(value) for name, value in given.items() if is_dataclass(value)}  # type: ignore[arg-type]
        with _company(trainer, given["model"].device_map, {**_flat(sections), **package_versions()}):
            return stage(*args, **kwargs)

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


def require_shared(folder: str | Path, key: str) -> None:
    """Raise UserError where a local folder, given by a key, is not the same one for all processes of the run."""
    if not _together() or "://" in str(folder):
        return
    mark = Path(folder) / f".seen-by-all-{os.getpid()}"
    if _rank() == 0:
        writable_folder(folder, key)
        write_bytes(mark, GOODBYE)
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
def idle() -> Iterator[None]:
    """While this process only waits for the others."""
    if _watch is not None:
        _watch.idle = True
    try:
        yield
    finally:
        if _watch is not None:
            _watch.idle = False


@contextmanager
def _company(trainer: TrainerConfig, device_map: DeviceMap | None, facts: Mapping[str, object]) -> Iterator[None]:
    from refusal_lightning.stages.trainer import meet

    global _watch
    meet(trainer, device_map)
    if not _together():
        yield
        return
    agree(facts)
    _watch = _Watch(_gathered(socket.gethostname()))
    try:
        yield
    except (UserError, KeyboardInterrupt):
        raise
    except SystemExit as end:
        if end.code == STOPPED:
            _watch.stop_together()
        raise
    except Exception:
        if _watch.asked_to_stop:
            raise SystemExit(STOPPED) from None
        if _watch.is_lost(within=3.0):  # what went wrong here is only that the other one is gone
            raise SystemExit(1) from None
        raise
    else:
        _watch.say_goodbye()


class _Watch:
    """Notices that another process is gone, or was told to stop: the first one is connected with each of the others.

    A connection breaks as soon as the process at its other end dies, however it does, and within ``SILENCE`` when its
    machine does. Torch's own connections tell only whoever happens to wait for something.
    """

    def __init__(self, nodes: list[str]) -> None:
        self.asked_to_stop = False
        self.idle = False
        self._nodes, self._rank = nodes, _rank()
        self._noticed, self._all_ended = threading.Event(), threading.Event()
        self._peers = _first_listens(len(nodes)) if self._rank == 0 else _connect_to_first(self._rank)
        threading.Thread(target=self._listen, name="watch", daemon=True).start()

    def _listen(self) -> None:
        with selectors.DefaultSelector() as selector:
            for peer, connection in self._peers.items():
                selector.register(connection, selectors.EVENT_READ, peer)
            while selector.get_map():
                for key, _ in selector.select():
                    try:
                        said = self._peers[key.data].recv(1)
                    except OSError:
                        said = b""
                    if said in (AT_REST, ASK_TO_STOP):
                        self._stop()
                    if said == ASK_TO_STOP:
                        continue
                    selector.unregister(key.fileobj)
                    if said == b"":
                        self._lose(key.data)
        self._all_ended.set()

    def ask_to_stop(self) -> None:
        """Tell the others; the first process passes it on."""
        if not self.asked_to_stop:
            self.asked_to_stop = True
            self._say(ASK_TO_STOP)

    def _stop(self) -> None:
        if self._rank == 0:
            self.ask_to_stop()
        self.asked_to_stop = True
        if self.idle:  # torch would go on waiting for those that have stopped
            self._say(AT_REST)
            os._exit(STOPPED)

    def _lose(self, peer: int) -> None:
        if self.asked_to_stop:
            return
        gone, here = (f"process {rank} on {self._nodes[rank]}" for rank in (peer, self._rank))
        text = f"refusal_lightning: {gone} ended before the work was done, so {here} ends too"
        print(f"{text}; the same command continues", file=sys.stderr, flush=True)
        self._noticed.set()
        time.sleep(GRACE)
        os._exit(1)

    def is_lost(self, within: float = 0.0) -> bool:
        """Whether another process was lost, or is within so many seconds."""
        return self._noticed.wait(within)

    def say_goodbye(self) -> None:
        """This process has done its work, and may end before the others."""
        self._say(GOODBYE)

    def stop_together(self) -> None:
        """Have the others stop, and wait for them: a launcher may kill all as soon as one has ended."""
        self.ask_to_stop()
        self._say(AT_REST)
        self._all_ended.wait(TOGETHER)

    def _say(self, what: bytes) -> None:
        for connection in self._peers.values():
            with suppress(OSError):  # it has ended already
                connection.sendall(what)


def _first_listens(count: int) -> dict[int, socket.socket]:
    import torch

    token = secrets.token_bytes(16)
    family = socket.AF_INET6 if ":" in os.environ["MASTER_ADDR"] else socket.AF_INET
    peers: dict[int, socket.socket] = {}
    with socket.create_server(("", 0), family=family, backlog=count) as server:
        server.settimeout(60)
        torch.distributed.broadcast_object_list([server.getsockname()[1], token], src=0)
        while len(peers) < count - 1:
            connection, _ = server.accept()
            connection.settimeout(60)
            said = connection.recv(20, socket.MSG_WAITALL)
            if said[:16] != token:  # not one of us
                connection.close()
                continue
            peers[int.from_bytes(said[16:])] = _patient(connection)
    return peers


def _connect_to_first(rank: int) -> dict[int, socket.socket]:
    import torch

    given: list[Any] = [None, None]
    torch.distributed.broadcast_object_list(given, src=0)
    port, token = given
    connection = socket.create_connection((os.environ["MASTER_ADDR"], port), timeout=60)
    connection.sendall(token + rank.to_bytes(4))
    return {0: _patient(connection)}


def _patient(connection: socket.socket) -> socket.socket:
    """Waits for as long as it takes, unless the machine at the other end falls silent."""
    connection.settimeout(None)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", SILENCE // 2), ("TCP_KEEPINTVL", SILENCE // 8), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return connection


_watch: _Watch | None = None
_asked = False


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
