"""How long the others live when one process of a run is lost, with the watchdog and without it.

    python benchmarks/lost_process.py [--launchers torchrun lightning srun hand]

`cache` of a tiny model in two processes, which `torchrun`, Lightning, `srun --kill-on-bad-exit=1` or nobody (`hand`:
two commands with MASTER_ADDR and NODE_RANK) starts and looks after. In the middle of its work one process is killed
with SIGKILL, or stops with an error of its own. The other one has more than a minute of work left. Measured are the
seconds until it ends, from the moment of the loss, and which line that tells of trouble stands first in what the user
sees. Without the watchdog, Lightning looks after the processes that it started, as it does for everybody else.

`srun` needs root and a SLURM on this machine (tests/slurm/cluster.sh makes a cluster of two nodes).
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import product
from pathlib import Path
from typing import Any

from refusal_lightning.config import TrainerConfig

ROOT = Path(__file__).resolve().parents[1]
LAUNCHERS = ("torchrun", "lightning", "srun", "hand")
PAUSE = 1.0
"""Seconds that a batch takes at least."""
BATCHES = 90
"""Batches of each process."""
LIMIT = 60.0
"""Seconds after which the other process counts as left alone."""
MESSAGE = "planted: this process has a mistake of its own"
TROUBLE = re.compile(r"error|traceback|ended before|terminat|killed|sigkill|exitcode", re.IGNORECASE)


def main() -> None:
    """Run every case and print a line each."""
    if os.environ.get("LOST_PROCESS"):
        sys.exit(be_a_process())
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--launchers", nargs="+", choices=LAUNCHERS, default=LAUNCHERS)
    args = parser.parse_args()
    print(f"{'launcher':10} {'lost':8} {'rank':4} {'watchdog':8} {'seconds':>8}  first line that tells of trouble")
    with tempfile.TemporaryDirectory(prefix="lost-process-") as name:
        config = write_inputs(Path(name))
        for launcher in args.launchers:
            with slurm_cluster() if launcher == "srun" else no_cluster() as variables:
                for how, rank, watchdog in product(("killed", "error"), ("1", "0"), ("on", "off")):
                    about = {"HOW": how, "RANK_LOST": rank, "WATCHDOG": watchdog, **variables}
                    seconds, line = lose(launcher, Path(name) / f"{launcher}-{how}-{rank}-{watchdog}", config, about)
                    shown = f"{seconds:.1f}" if seconds < LIMIT else f"over {LIMIT:.0f}"
                    print(f"{launcher:10} {how:8} {rank:4} {watchdog:8} {shown:>8}  {line}", flush=True)


def write_inputs(folder: Path) -> Path:
    """A configuration with a tiny model and made-up prompts."""
    sys.path.insert(0, str(ROOT / "tests" / "helpers"))
    from runs import write_config, write_data  # noqa: I001
    from tiny_models import save_tiny_model

    data = write_data(folder / "data", train=BATCHES - 10, val=10, test=1)
    sizes = {"n_train": BATCHES - 10, "n_val": 10}
    model = save_tiny_model("llama", folder / "model")
    return Path(write_config(folder, model, data, data=sizes, cache={"batch_size": 1}, store={"root": "store"}))


def lose(launcher: str, folder: Path, config: Path, about: dict[str, str]) -> tuple[float, str]:
    """Seconds from the loss of a process to the end of the other one, and the first line that tells of trouble."""
    folder.mkdir()
    environment = {**os.environ, **about, "LOST_PROCESS": str(folder), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment |= {"HF_HUB_OFFLINE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    script = [str(Path(__file__).resolve()), "cache", "--config", str(config), "--trainer.strategy", "ddp"]
    several = ["--trainer.num_nodes", "2"] if launcher in ("srun", "hand") else ["--trainer.devices", "2"]
    commands = {
        "torchrun": [[sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]],
        "lightning": [[sys.executable]],
        "srun": [["srun", "--kill-on-bad-exit=1", "--nodes=2", "--ntasks-per-node=1", sys.executable]],
        "hand": [[sys.executable]] * 2,
    }[launcher]
    with (folder / "output.txt").open("w") as output:
        started = [
            subprocess.Popen(
                [*command, *script, *several],
                cwd=folder,
                env=environment | ({"NODE_RANK": str(number)} if launcher == "hand" else {}),
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            for number, command in enumerate(commands)
        ]
        try:
            seconds = watch(folder, f"rank{1 - int(about['RANK_LOST'])}", started)
        finally:
            end(folder, started)
    lines = (folder / "output.txt").read_text(errors="replace").splitlines()
    return seconds, next((line.strip()[:110] for line in lines if TROUBLE.search(line)), "none")


def watch(folder: Path, other: str, started: Sequence[subprocess.Popen[bytes]]) -> float:
    """Seconds that the other process lives once the first is lost, at most ``LIMIT``."""
    while not (folder / "lost").exists() or not (folder / other).exists():
        if all(process.poll() is not None for process in started):
            sys.exit(f"the run ended before a process was lost:\n{(folder / 'output.txt').read_text()}")
        time.sleep(0.02)
    lost, pid = float((folder / "lost").read_text()), int((folder / other).read_text())
    while alive(pid, started) and time.time() - lost < LIMIT:
        time.sleep(0.02)
    return time.time() - lost


def alive(pid: int, started: Sequence[subprocess.Popen[bytes]]) -> bool:
    """Whether a process still runs; one that has ended and waits to be asked for its status does not."""
    for process in started:
        process.poll()
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def end(folder: Path, started: Sequence[subprocess.Popen[bytes]]) -> None:
    """Kill what is left of a run."""
    time.sleep(1.0)  # for the launcher's own last words
    for path in folder.glob("rank?"):
        with suppress(OSError):
            os.kill(int(path.read_text()), signal.SIGKILL)
    for process in started:
        with suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def be_a_process() -> int:
    """One process of the run: the command line, with slow batches, one of which is this process's last."""
    folder, how = Path(os.environ["LOST_PROCESS"]), os.environ["HOW"]
    import torch

    from refusal_lightning.cli import main as command_line
    from refusal_lightning.distributed import launch, trainer
    from refusal_lightning.errors import UserError
    from refusal_lightning.modules.activations import ActivationModule

    if os.environ["WATCHDOG"] == "off":
        launch.PeerWatchdog = NoWatchdog  # type: ignore[assignment,misc]
        trainer.launch_processes = launch_as_lightning_does
    step, count = ActivationModule.predict_step, iter(range(BATCHES + 1))

    def slow_step(self: ActivationModule, *args: Any) -> Any:
        number, rank = next(count), torch.distributed.get_rank()
        if number == 0:
            write(folder / f"rank{rank}", str(os.getpid()))
        time.sleep(PAUSE)
        if number == 5 and rank == int(os.environ["RANK_LOST"]):
            write(folder / "lost", str(time.time()))
            if how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise UserError(MESSAGE)
        return step(self, *args)

    ActivationModule.predict_step = slow_step  # type: ignore[assignment,method-assign]
    return command_line()


def write(path: Path, text: str) -> None:
    """Write a file that is there whole."""
    path.with_suffix(".part").write_text(text)
    path.with_suffix(".part").replace(path)


class NoWatchdog:
    """Hears nothing and says nothing."""

    shutdown_requested = False

    def __init__(self, *_: object) -> None:
        pass

    def is_lost(self, within: float = 0.0) -> bool:
        """Never known."""
        return False

    def request_shutdown(self) -> None:
        """Nobody hears it."""

    def announce_exit(self) -> None:
        """Nobody hears it."""


def launch_as_lightning_does(config: TrainerConfig, spread: bool) -> None:
    """Start the other processes and leave them to Lightning, which kills all of them once one has failed."""
    from torch.utils.data import DataLoader

    from refusal_lightning.distributed.trainer import _EmptyLoop, build_trainer

    one: Any = DataLoader([0], batch_size=None)  # type: ignore[arg-type]
    build_trainer(config).predict(_EmptyLoop(), one, return_predictions=False)


def free_port() -> int:
    """A free port of this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def no_cluster() -> Iterator[dict[str, str]]:
    """Nothing to start."""
    yield {}


@contextmanager
def slurm_cluster() -> Iterator[dict[str, str]]:
    """Variables that lead to a SLURM of two nodes on this machine."""
    folder, cluster = Path("/tmp") / f"slurm-lost-{os.getpid()}", str(ROOT / "tests" / "slurm" / "cluster.sh")
    try:
        subprocess.run([cluster, "start", str(folder)], check=True, timeout=120)
        yield {"SLURM_CONF": str(folder / "slurm.conf")}
    finally:
        subprocess.run([cluster, "stop", str(folder)], check=False, timeout=60)
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
