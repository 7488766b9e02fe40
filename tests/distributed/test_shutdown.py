"""Being told to stop, in one process that plays its part among others."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import pytest
import torch

from refusal_lightning.distributed import launch, process_group, shutdown
from refusal_lightning.distributed.process_group import any_rank_stops, barrier
from refusal_lightning.distributed.shutdown import (
    EXIT_TERMINATED,
    ShutdownState,
    defer_shutdown,
    handle_sigterm,
    request_shutdown,
    shutdown_requested,
)


class Peers:
    """A watchdog of processes that say what a test wants."""

    def __init__(self) -> None:
        self.shutdown_requested, self.lost = False, False
        self.heard: list[str] = []

    def is_lost(self, within: float = 0.0) -> bool:
        return self.lost

    def request_shutdown(self) -> None:
        self.heard.append("stop")

    def announce_exit(self) -> None:
        self.heard.append("goodbye")


@pytest.fixture
def state() -> Iterator[ShutdownState]:
    """The state of a process that nobody has told anything; what it was before comes back."""
    before = {field.name: getattr(shutdown.state, field.name) for field in fields(ShutdownState)}
    vars(shutdown.state).update(vars(ShutdownState()))
    yield shutdown.state
    vars(shutdown.state).update(before)


@pytest.fixture
def peers(state: ShutdownState) -> Peers:
    peers: Any = Peers()
    state.watchdog = peers
    return peers


def sigterm() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_alone(state):
    assert not shutdown_requested()
    request_shutdown()
    assert shutdown_requested()


def test_the_others_are_told(state, peers):
    request_shutdown()
    assert peers.heard == ["stop"] and shutdown_requested()


def test_told_by_another(state, peers):
    peers.shutdown_requested = True
    assert shutdown_requested() and not state.requested and not peers.heard


@pytest.mark.parametrize("requested", [False, True])
def test_another_is_lost(state, peers, requested):
    """That ends this process, also where it has something at hand and was told to stop before."""
    state.requested, peers.lost = requested, True
    with pytest.raises(SystemExit) as end, defer_shutdown():
        shutdown_requested()
    assert end.value.code == 1 and state.deferred == 0


def test_a_signal_with_nothing_at_hand(state, peers):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as end, handle_sigterm():
        sigterm()
    assert end.value.code == EXIT_TERMINATED == 128 + signal.SIGTERM
    assert state.requested and peers.heard == ["stop"]
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_signal_while_something_is_at_hand(state):
    """It is noted however deep the work is, and acted upon by whoever asks."""
    with handle_sigterm():
        with defer_shutdown():
            with defer_shutdown():
                sigterm()
            sigterm()
            assert shutdown_requested()
        with pytest.raises(SystemExit):
            sigterm()


def test_work_that_fails_is_not_at_hand_any_more(state):
    with pytest.raises(ValueError), defer_shutdown():
        raise ValueError
    assert state.deferred == 0


def test_signals_are_left_alone_in_other_threads(state):
    """Python gives them to the main thread only."""
    before, seen = signal.getsignal(signal.SIGTERM), []

    def work() -> None:
        with handle_sigterm():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


@pytest.fixture
def group() -> Iterator[None]:
    """A process group of one."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_all_end_at_a_barrier(state, group):
    barrier()
    assert not any_rank_stops(False) and any_rank_stops(True)
    request_shutdown()
    with pytest.raises(SystemExit) as end:
        barrier()
    assert end.value.code == EXIT_TERMINATED and state.agreed and state.deferred == 0


def test_a_lost_process_ends_the_wait_for_it(state, peers, group, monkeypatch):
    class Forever:
        looked = 0

        def is_completed(self) -> bool:
            peers.lost = True  # while it waits
            self.looked += 1
            return pytest.fail("nobody asks whether one is lost") if self.looked > 3 else False

    monkeypatch.setattr(torch.distributed, "all_reduce", lambda *_, **__: Forever())
    with pytest.raises(SystemExit) as end:
        barrier()
    assert end.value.code == 1 and not state.agreed


def test_nothing_to_wait_for_alone(state, monkeypatch):
    monkeypatch.setattr(process_group, "any_rank_stops", lambda this: pytest.fail("there is nobody to ask"))
    request_shutdown()
    barrier()


@pytest.mark.parametrize("agreed", [False, True])
@pytest.mark.parametrize("killed", [False, True])
def test_none_ends_before_all_stop(state, peers, monkeypatch, agreed, killed):
    """A process that stops first says so, and waits for the others, unless they know, or one was killed meanwhile."""
    asked: list[bool] = []

    def ask(this: bool) -> bool:
        asked.append(this)
        if killed:
            raise RuntimeError("Connection closed by peer")
        return True

    monkeypatch.setattr(launch, "any_rank_stops", ask)
    state.agreed = agreed
    launch._stop_together(state)
    assert asked == ([] if agreed else [True])
    assert peers.heard == ["stop", "goodbye"] and state.requested
