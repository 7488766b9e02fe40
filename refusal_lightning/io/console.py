"""Messages for the user, through ``logging``: the command line shows them as plain lines."""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager


def is_main_process() -> bool:
    """Whether this is the first process of the run, as far as the environment tells before Lightning starts."""
    return not any(int(os.environ.get(name) or 0) for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK", "NODE_RANK"))


def process_name() -> str:
    """Which process of several this is, and on which node; empty where there is one."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return ""
    return f"process {torch.distributed.get_rank()} on {socket.gethostname()}"


class ConsoleHandler(logging.Handler):
    """Messages as plain lines on standard output, once per run and not once per process."""

    def emit(self, record: logging.LogRecord) -> None:
        if is_main_process():
            warning = "warning: " if record.levelno >= logging.WARNING else ""
            print(f"{warning}{record.getMessage()}", flush=True)  # a closed pipe ends the program


@contextmanager
def messages_to_console() -> Iterator[None]:
    """The package's messages go to the console, as the command line wants it. Elsewhere they go where logging says."""
    log, handler = logging.getLogger("refusal_lightning"), ConsoleHandler()
    before = log.level, log.propagate
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.level, log.propagate = before


_notebook = ConsoleHandler()


def verbose(on: bool = True) -> None:
    """Show what the package says of its work, as the command line does; ``on=False``: only warnings, as at first."""
    log = logging.getLogger("refusal_lightning")
    log.removeHandler(_notebook)
    log.propagate = True
    log.setLevel(logging.NOTSET)
    if on:
        log.addHandler(_notebook)
        log.propagate = False
        log.setLevel(logging.INFO)
