"""What a stage tells the user: plain lines, once per run and not once per process."""

from __future__ import annotations

import os
import socket
import sys


def is_main_process() -> bool:
    """Whether this is the first process of the run, as far as the environment tells before Lightning starts."""
    return not any(int(os.environ.get(name) or 0) for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK", "NODE_RANK"))


def process_name() -> str:
    """Which process of several this is, and on which node; empty where there is one."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return ""
    return f"process {torch.distributed.get_rank()} on {socket.gethostname()}"


def say(text: str = "") -> None:
    """Print a line for the user."""
    if is_main_process():
        print(text, flush=True)
