"""How processes find each other, while strangers knock on the same port."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from refusal_lightning.distributed.watchdog import accept_peers

TOKEN = bytes(range(16))


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


def connect(server: socket.socket, *pieces: bytes, pause: float = 0.0) -> socket.socket:
    connection = socket.create_connection(server.getsockname())
    for piece in pieces:
        connection.sendall(piece)
        time.sleep(pause)
    return connection


def test_strangers_hold_nobody_up(server: socket.socket) -> None:
    """Those that are silent, speak, say a part and end, or break off; and peers whose greeting comes in pieces."""
    strangers = [connect(server) for _ in range(3)]
    strangers += [connect(server, said) for said in (b"GET / HTTP/1.1\r\n\r\n", TOKEN[:5] + b"x", b"\0" * 40)]
    connect(server, TOKEN).close()
    reset = connect(server)
    reset.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    reset.close()
    ours: list[socket.socket] = []

    def join() -> None:
        for rank in (2, 1):
            number = rank.to_bytes(4)
            ours.append(connect(server, TOKEN[:7], TOKEN[7:] + number[:2], number[2:], pause=0.02))

    thread = threading.Thread(target=join)
    thread.start()
    started = time.monotonic()
    peers = accept_peers(server, TOKEN, 3, within=20)
    thread.join()
    assert time.monotonic() - started < 3
    assert sorted(peers) == [1, 2]
    for rank, connection in zip((2, 1), ours, strict=True):
        connection.sendall(b"!")
        assert peers[rank].recv(1) == b"!" and peers[rank].gettimeout() is None
    for stranger in strangers:
        stranger.settimeout(3)
        with suppress(ConnectionResetError):
            assert stranger.recv(1) == b""
    for connection in (*strangers, *ours, *peers.values()):
        connection.close()


def test_a_process_that_does_not_come_is_named(server: socket.socket) -> None:
    silent, first = connect(server), connect(server, TOKEN + (1).to_bytes(4))
    with silent, first, pytest.raises(TimeoutError, match=r"no connection from process 2 within 0\.3 s"):
        accept_peers(server, TOKEN, 3, within=0.3)
