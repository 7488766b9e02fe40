"""Sockets between the processes of one run, by which each learns that another is gone, or was told to stop.

Launchers do not make this needless. Without it, a process whose peer is lost in the middle of the work ends when its
launcher kills it: under torchrun within 9 to 18 seconds, under `srun --kill-on-bad-exit=1` within 10 to 23, and from
Lightning within 12 where a process that it started is lost. Where the first process of Lightning's is lost, or where
nobody started the processes but their user, it works on until it waits for the lost one: over a minute, by as much as
there is work left (measured by benchmarks/lost_process.py; 7 to 20 seconds with the watchdog in every case). Lightning
also kills with SIGKILL whatever is being written, and nobody says what was lost.
"""

from __future__ import annotations

import os
import secrets
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

EXIT_GRACE_S = 15.0
"""Seconds that a process has to end by itself once another one is lost."""
CONNECT_S = 60.0
"""Seconds in which all processes must be connected."""
KEEPALIVE_S = 40
"""Seconds without an answer from a machine after which it counts as lost."""

# What processes say to each other, a byte each.
GOODBYE, REQUEST_SHUTDOWN = b".", b"?"


class PeerWatchdog:
    """Notices that another process is gone, or was told to stop: the first one is connected with each of the others.

    A connection breaks as soon as the process at its other end dies, however it does, and within ``KEEPALIVE_S`` when
    its machine does. Torch's own connections tell only whoever happens to wait for something. ``told`` is called, in a
    thread of its own, when another process says that it was told to stop.
    """

    def __init__(self, nodes: list[str], rank: int, told: Callable[[], None]) -> None:
        self.shutdown_requested = False
        self._nodes, self._rank, self._told = nodes, rank, told
        self._noticed = threading.Event()
        self._peers = _first_listens(len(nodes)) if rank == 0 else _connect_to_first(rank)
        threading.Thread(target=self._listen, name="watchdog", daemon=True).start()

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
                    if said == REQUEST_SHUTDOWN:
                        self.request_shutdown(pass_on=self._rank == 0)
                        self._told()
                        continue
                    selector.unregister(key.fileobj)
                    if said == b"":
                        self._peer_lost(key.data)

    def request_shutdown(self, pass_on: bool = True) -> None:
        """Tell the others, once; the first process passes it on."""
        if not self.shutdown_requested:
            self.shutdown_requested = True
            if pass_on:
                self._say(REQUEST_SHUTDOWN)

    def _peer_lost(self, peer: int) -> None:
        if self.shutdown_requested:
            return
        gone, here = (f"process {rank} on {self._nodes[rank]}" for rank in (peer, self._rank))
        text = f"refusal_lightning: {gone} ended before the work was done, so {here} ends too"
        print(f"{text}; the same command continues", file=sys.stderr, flush=True)
        self._noticed.set()
        time.sleep(EXIT_GRACE_S)
        os._exit(1)

    def is_lost(self, within: float = 0.0) -> bool:
        """Whether another process was lost, or is within so many seconds."""
        return self._noticed.wait(within)

    def announce_exit(self) -> None:
        """This process may end before the others: its work is done, or all stop."""
        self._say(GOODBYE)

    def _say(self, what: bytes) -> None:
        for connection in self._peers.values():
            with suppress(OSError):  # it has ended already
                connection.sendall(what)


def _first_listens(count: int) -> dict[int, socket.socket]:
    import torch

    token = secrets.token_bytes(16)
    family = socket.AF_INET6 if ":" in os.environ["MASTER_ADDR"] else socket.AF_INET
    with socket.create_server(("", 0), family=family, backlog=count) as server:
        torch.distributed.broadcast_object_list([server.getsockname()[1], token], src=0)
        return accept_peers(server, token, count)


def accept_peers(
    server: socket.socket, token: bytes, count: int, within: float = CONNECT_S
) -> dict[int, socket.socket]:
    """The connections of processes 1 to count - 1, each of which begins with the token and its number, 4 bytes.

    Whoever else connects, say a scanner of ports, holds nobody up: it is dropped once it says something else or ends,
    else when all are there. Raises TimeoutError where a process is not there ``within`` so many seconds.
    """
    peers: dict[int, socket.socket] = {}
    deadline = time.monotonic() + within
    server.setblocking(False)
    with selectors.DefaultSelector() as selector:
        selector.register(server, selectors.EVENT_READ)
        while len(peers) < count - 1:
            if (left := deadline - time.monotonic()) <= 0:
                missing = ", ".join(str(rank) for rank in range(1, count) if rank not in peers)
                raise TimeoutError(f"no connection from process {missing} within {within:g} s")
            for key, _ in selector.select(left):
                if key.fileobj is server:
                    with suppress(OSError):  # gone again already
                        connection, _ = server.accept()
                        connection.setblocking(False)
                        selector.register(connection, selectors.EVENT_READ, bytearray())
                    continue
                guest = cast(socket.socket, key.fileobj)
                is_peer = _is_peer(guest, key.data, token)
                if is_peer is not None:
                    selector.unregister(guest)
                if is_peer:
                    peers[int.from_bytes(key.data[len(token) :])] = _with_keepalive(guest)
                elif is_peer is False:
                    guest.close()
        for key in list(selector.get_map().values()):
            if key.fileobj is not server:
                cast(socket.socket, key.fileobj).close()
    return peers


def _is_peer(guest: socket.socket, said: bytearray, token: bytes) -> bool | None:
    """Hear what a connection says, after what it ``said``: None while that is only the start of a peer's greeting."""
    try:
        new = guest.recv(len(token) + 4 - len(said))
    except OSError:
        new = b""
    said += new
    if not new or not token.startswith(said[: len(token)]):
        return False
    return True if len(said) == len(token) + 4 else None


def _connect_to_first(rank: int) -> dict[int, socket.socket]:
    import torch

    given: list[Any] = [None, None]
    torch.distributed.broadcast_object_list(given, src=0)
    port, token = given
    connection = socket.create_connection((os.environ["MASTER_ADDR"], port), timeout=60)
    connection.sendall(token + rank.to_bytes(4))
    return {0: _with_keepalive(connection)}


def _with_keepalive(connection: socket.socket) -> socket.socket:
    """Waits for as long as it takes, unless the machine at the other end falls silent."""
    connection.settimeout(None)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", KEEPALIVE_S // 2), ("TCP_KEEPINTVL", KEEPALIVE_S // 8), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return connection
