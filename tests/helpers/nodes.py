"""Runs over several "nodes": processes that are started one by one, as on several machines, and find each other."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]


def start_nodes(
    stage: str, config: str, *more: str, count: int = 2, changes: Sequence[dict[str, str]] = (), **options: object
) -> list[subprocess.Popen[str]]:
    """One process per node, each a session of its own; ``changes`` are the variables that differ on each node, and
    ``prefix_N`` is put before node N's command."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    nodes = []
    for node in range(count):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": str(node)}
        environment |= changes[node] if changes else {}
        prefix = options.get(f"prefix_{node}", [])
        command = [*prefix, sys.executable, "-m", "refusal_lightning", stage, "--config", config]  # type: ignore[misc]
        command += ["--trainer.num_nodes", str(count), "--trainer.strategy", "ddp", *more]
        folder = environment.pop("FOLDER", str(ROOT))
        nodes.append(
            subprocess.Popen(
                command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                start_new_session=True,
            )
        )  # fmt: skip
    return nodes


def finish(nodes: Sequence[subprocess.Popen[str]], timeout: float = 150) -> list[tuple[int, str]]:
    """Each node's exit status and what it wrote to standard error, in order."""
    ended = [node.communicate(timeout=timeout) for node in nodes]
    return [(node.returncode, errors) for node, (_, errors) in zip(nodes, ended, strict=True)]
