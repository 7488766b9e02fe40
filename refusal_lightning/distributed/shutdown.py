"""Being told to stop: noted while something is at hand, acted upon when it is written."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from refusal_lightning.distributed.watchdog import PeerWatchdog

EXIT_TERMINATED = 143
"""Exit status of a process that stopped because it was told to: 128 + SIGTERM."""


@dataclass
class ShutdownState:
    """What this process knows of being told to stop."""

    requested: bool = False
    """By a signal to this process."""
    agreed: bool = False
    """All processes of the run know that all stop."""
    deferred: int = 0
    """How many parts of the work must not be left half done just now."""
    watchdog: PeerWatchdog | None = None
    """Hears of the other processes, where there are any."""


state = ShutdownState()


@contextmanager
def defer_shutdown() -> Iterator[None]:
    """While something must not be left half done: being told to stop is noted, and acted upon later."""
    state.deferred += 1
    try:
        yield
    finally:
        state.deferred -= 1


def request_shutdown() -> None:
    """Have this process and the others stop when what is at hand is written."""
    state.requested = True
    if state.watchdog is not None:
        state.watchdog.request_shutdown()


def shutdown_requested() -> bool:
    """Whether this process is to stop. Ends it at once if another one was lost."""
    if state.watchdog is not None and state.watchdog.is_lost():
        raise SystemExit(1)
    return state.requested or (state.watchdog is not None and state.watchdog.shutdown_requested)


@contextmanager
def handle_sigterm() -> Iterator[None]:
    """SIGTERM ends this process at once where nothing is at hand, and else as soon as it is written."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _on_sigterm)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def keep_interrupts() -> Iterator[None]:
    """An interrupt (Ctrl-C, a notebook's stop button) in a loop of Lightning's stays a KeyboardInterrupt.

    Lightning makes it ``SystemExit(1)``, and has the process ignore every later one.
    """
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as end:
        if isinstance(end.__context__, KeyboardInterrupt):
            raise end.__context__ from None
        raise
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, before)


def _on_sigterm(*_: object) -> None:
    request_shutdown()
    if not state.deferred:
        raise SystemExit(EXIT_TERMINATED)
