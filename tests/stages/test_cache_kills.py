"""cache, as users start it, killed at any moment, in one process and in two: it ends with the same store."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from refusal_lightning.store import ActivationStore, verify
from runs import store_files, write_config, write_data

ROOT = Path(__file__).parents[2]
TWO = ("--trainer.devices", "2", "--trainer.strategy", "ddp")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_data(tmp_path_factory.mktemp("data") / "made-up", train=170, val=10, test=1)


@pytest.fixture(scope="module")
def config(tmp_path_factory, tiny_llama_folder, data) -> str:
    folder = tmp_path_factory.mktemp("config")
    sizes = {"n_train": 160, "n_val": 10}
    return write_config(folder, tiny_llama_folder, data, data=sizes, store={"shard_mb": 0.08}, cache={"batch_size": 2})


def _start(config: str, root: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "refusal_lightning", "cache", "--config", config, "--store.root", str(root), *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    # A session of its own, so that whatever the job started can be found and ended.
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip


def _finish(process: subprocess.Popen[str], timeout: float = 120) -> str:
    out, errors = process.communicate(timeout=timeout)
    assert process.returncode == 0, errors
    return out


def _shards(root: Path) -> int:
    return len(list(root.glob("*.zarr/resid_pre/c.*[0-9]")))


def _until_shards(process: subprocess.Popen[str], root: Path, count: int) -> None:
    while _shards(root) < count and process.poll() is None:
        time.sleep(0.002)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, config) -> dict[str, bytes]:
    root = tmp_path_factory.mktemp("undisturbed")
    _finish(_start(config, root))
    assert _shards(root) > 20
    return store_files(root)


def test_two_jobs_at_once(config, undisturbed, tmp_path):
    """Started on one store at the same time, both end well."""
    jobs = [_start(config, tmp_path) for _ in range(2)]
    for job in jobs:
        _finish(job)
    assert store_files(tmp_path) == undisturbed


def test_two_processes(config, undisturbed, tmp_path):
    """DDP over two processes writes the bytes that one process writes."""
    _finish(_start(config, tmp_path, *TWO))
    assert store_files(tmp_path) == undisturbed


@pytest.mark.parametrize("victim", ["the second", pytest.param("the first", marks=pytest.mark.slow)])
def test_one_of_two_processes_killed(victim, config, undisturbed, tmp_path):
    """The job ends soon, not only when a timeout of days has passed; its next start ends with the same bytes."""
    job = _start(config, tmp_path, *TWO)
    _until_shards(job, tmp_path, 3)
    children = _children(job.pid)
    assert len(children) == 1, "the second process is the first one's child"
    os.kill(job.pid if victim == "the first" else children[0], signal.SIGKILL)
    job.communicate(timeout=60)
    assert job.returncode != 0
    deadline = time.monotonic() + 60
    while _alive(children[0]) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _alive(children[0]), "the other process must not outlive the job"
    _finish(_start(config, tmp_path, *TWO))
    assert store_files(tmp_path) == undisturbed


@pytest.mark.slow
def test_killed_25_times(config, undisturbed, tmp_path):
    """At random moments: while it starts, plans, computes or writes; what is complete is sound after each."""
    moments = random.Random(0)
    started = time.monotonic()
    _finish(_start(config, tmp_path / "timed"))
    whole = time.monotonic() - started
    root, midway = tmp_path / "store", 0
    n_shards = sum(name.startswith("resid_pre/c.") for name in undisturbed)
    for attempt in range(25):
        if _shards(root) >= n_shards - 2:  # nearly done: from the beginning again
            shutil.rmtree(root)
        job = _start(config, root)
        if attempt % 2:
            time.sleep(moments.uniform(0, whole))
        else:
            _until_shards(job, root, _shards(root) + moments.randint(1, 2))
        with contextlib.suppress(ProcessLookupError):  # it may have ended before
            os.killpg(job.pid, signal.SIGKILL)
        job.communicate()
        for url in root.glob("*.zarr"):
            if ActivationStore.exists(url):
                assert [problem for problem in verify(url) if not problem.missing] == []
                store = ActivationStore.open(url)
                midway += 0 < len(store.pending()) < len(store.shards)
    assert midway >= 5
    _finish(_start(config, root))
    assert store_files(root) == undisturbed


def _children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split() if _is_python(int(child))]


def _is_python(pid: int) -> bool:
    return b"refusal_lightning" in Path(f"/proc/{pid}/cmdline").read_bytes()


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
