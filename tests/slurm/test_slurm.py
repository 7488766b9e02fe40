"""The job scripts of hpc/ on a real SLURM of two nodes: run, preempted, requeued, like a single process in the end."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from runs import store_files, write_config, write_data

ROOT = Path(__file__).parents[2]
CLUSTER = Path(__file__).with_name("cluster.sh")


@pytest.fixture(scope="module")
def slurm(tmp_path_factory) -> Iterator[dict[str, str]]:
    """Variables that lead to a running cluster."""
    if os.geteuid() or not all(map(shutil.which, ("slurmctld", "slurmd", "munged", "sbatch"))):
        pytest.skip("needs root, and a SLURM: apt-get install slurm-wlm munge")
    folder = Path("/tmp") / f"slurm-test-{os.getpid()}"  # its sockets want a short path that others may enter
    try:
        subprocess.run([CLUSTER, "start", folder], check=True, timeout=120)
        yield {"SLURM_CONF": str(folder / "slurm.conf")}
    finally:
        subprocess.run([CLUSTER, "stop", folder], check=False, timeout=60)
        shutil.rmtree(folder, ignore_errors=True)


class Cluster:
    """Jobs of the scripts in hpc/, with the Python of the tests, on the CPU."""

    def __init__(self, variables: dict[str, str], folder: Path) -> None:
        bare = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "RL_"))}
        environment = folder / "environment"
        (environment / "bin").mkdir(parents=True)
        # A link would make Python look for its packages there.
        python = f'#!/bin/sh\nexec {sys.executable} "$@"\n'
        (environment / "bin" / "python").write_text(python)
        (environment / "bin" / "python").chmod(0o755)
        self.variables = {**bare, **variables, "MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1"}
        self.variables |= {"RL_ENV": str(environment), "RL_ARGS": "--trainer.accelerator cpu", "PYTHONPATH": str(ROOT)}
        self.folder = folder

    def run(self, *command: str) -> str:
        done = subprocess.run(command, cwd=ROOT, env=self.variables, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def submit(self, script: str, *options: str, **variables: str) -> str:
        """The job's number. Its log is in the folder, under the script's name."""
        small = ["--ntasks-per-node=1", "--gres=gpu:1", "--cpus-per-task=1", "--mem=3G"]
        log = f"--output={self.folder / script}.log"
        command = ["sbatch", "--parsable", *small, log, *options, f"hpc/{script}"]
        kept, self.variables = self.variables, {**self.variables, **variables}
        try:
            return self.run(*command).strip()
        finally:
            self.variables = kept

    def state(self, job: str) -> dict[str, str]:
        return dict(re.findall(r"(\w+)=(\S+)", self.run("scontrol", "show", "job", job)))

    def wait(self, job: str, *states: str, timeout: float = 400) -> dict[str, str]:
        deadline = time.monotonic() + timeout
        while (state := self.state(job))["JobState"] not in states:
            assert time.monotonic() < deadline, (state["JobState"], state["Reason"], self.log())
            time.sleep(0.3)
        return state

    def log(self) -> str:
        return "\n".join(path.read_text() for path in sorted(self.folder.glob("*.log")))


@pytest.fixture
def cluster(slurm, tmp_path) -> Cluster:
    return Cluster(slurm, tmp_path)


def results(folder: Path) -> dict[str, bytes]:
    found = {f"store/{name}": content for name, content in store_files(folder / "store").items()}
    for path in (folder / "runs").rglob("*"):
        if path.is_file() and path.name not in ("run.json", "report.html") and ".journal" not in path.parts:
            found[str(path.relative_to(folder))] = path.read_bytes()
    return found


def configured(folder: Path, demo: Path, data: Path) -> str:
    folder.mkdir(exist_ok=True)
    path = write_config(
        folder,
        demo,
        data,
        model={"name": "demo"},
        data={"n_train": 12, "n_val": 2},
        store={"shard_mb": 0.6},
        cache={"batch_size": 2},
        select={"mode": "staged", "prune_layers": 0.9, "batch_size": 32},
        evaluate={"n_test": 2, "max_new_tokens": 4},
    )
    settings = yaml.safe_load(Path(path).read_text())
    del settings["trainer"]
    Path(path).write_text(yaml.safe_dump(settings))
    return path


def test_two_nodes_preempted_and_requeued(cluster, tmp_path, demo_folder):
    """Told that it will end, the job finishes its shards, is requeued, continues, and ends like a single process."""
    data = write_data(tmp_path / "data", train=12, val=2, test=2)
    config = configured(tmp_path / "nodes", demo_folder, data)
    job = cluster.submit("several_nodes.slurm", RL_CONFIG=config)
    store = tmp_path / "nodes" / "store"
    while not list(store.glob("*.zarr/resid_pre/c.*[0-9]")):
        assert cluster.state(job)["JobState"] in ("PENDING", "RUNNING"), cluster.log()
        time.sleep(0.02)
    cluster.run("scancel", "--batch", "--signal=USR1", job)  # what `--signal=B:USR1@180` has SLURM send
    state = cluster.wait(job, "PENDING")
    assert state["Restarts"] == "1"
    assert "stopped before the work was done, as asked" in cluster.log()
    assert not (tmp_path / "nodes" / "runs").exists()  # no later stage was begun
    done = len(list(store.glob("*.zarr/resid_pre/c.*[0-9]")))
    # SLURM holds a requeued job back for two minutes, and may be told not to.
    cluster.run("scontrol", "update", f"JobId={job}", "StartTime=now")
    cluster.wait(job, "COMPLETED")
    log = cluster.log()
    assert "start 2, on n[1-2]" in log and "requeued; the next start continues" in log
    whole, left = (int(n) for n in re.findall(r"cache: (\d+) of \d+ prompts to run", log))
    assert done > 0 and left < whole
    alone = configured(tmp_path / "alone", demo_folder, data)
    for stage in ("cache", "select", "evaluate"):
        command = [sys.executable, "-m", "refusal_lightning", stage, "--config", alone, "--trainer.accelerator", "cpu"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, timeout=300)
    ours, theirs = results(tmp_path / "nodes"), results(tmp_path / "alone")
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == []
    assert json.loads((tmp_path / "nodes" / "runs" / "tiny" / "run.json").read_text())["evaluate"]


def test_a_mistake_is_not_requeued(cluster, tmp_path, demo_folder):
    """An array over models, on one GPU each: the one with a mistake fails with its message, and only once."""
    data = write_data(tmp_path / "data", train=4, val=1, test=1)
    config = configured(tmp_path / "one", demo_folder, data)
    models = tmp_path / "models.txt"
    models.write_text(f"# a model per line\n{config} --model.name no/such-folder/model\n")
    job = cluster.submit("models_array.slurm", "--array=1-2", RL_MODELS=str(models), HF_HUB_OFFLINE="1")
    for task in ("1", "2"):
        state = cluster.wait(f"{job}_{task}", "FAILED")
        assert (state["ExitCode"], state["Restarts"]) == ("2:0", "0")
    assert "has no model number 2" in cluster.log() and "no/such-folder/model" in cluster.log()
