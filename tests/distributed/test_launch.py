"""Processes on several nodes: they agree on what they run, and a failure of one ends all, named, with nothing lost."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import yaml
from nodes import finish, start_nodes

from refusal_lightning.cli import main
from refusal_lightning.distributed.strategies import interface_towards
from refusal_lightning.distributed.work import share_of
from refusal_lightning.modules.activations import ActivationBatch, ActivationModule, PromptBatch
from refusal_lightning.store import ActivationStore, verify
from runs import store_files, write_config, write_data

MODEL = "tiny-model"
SIZES = {"n_train": 80, "n_val": 10}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_data(tmp_path_factory.mktemp("data") / "made-up", train=90, val=10, test=1)


def prepared(folder: Path, model: Path, data: Path) -> tuple[str, Path]:
    """A configuration whose model is found from the working directory only, and the folder that has it."""
    config = write_config(folder, model, data, data=SIZES, cache={"batch_size": 1})
    settings = yaml.safe_load(Path(config).read_text())
    settings["model"]["name"] = f"./{MODEL}"
    Path(config).write_text(yaml.safe_dump(settings))
    home = folder / "home"
    home.mkdir()
    (home / MODEL).symlink_to(model)
    return config, home


@pytest.fixture
def run(tmp_path, tiny_llama_folder, data) -> tuple[str, Path]:
    return prepared(tmp_path, tiny_llama_folder, data)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, tiny_llama_folder, data) -> dict[str, bytes]:
    """The store's files of a run by one process, of one thread as all are here."""
    config, home = prepared(tmp_path_factory.mktemp("undisturbed"), tiny_llama_folder, data)
    (node,) = start_nodes("cache", config, count=1, changes=[{"FOLDER": str(home)}])
    assert finish([node])[0][0] == 0
    return store_files(Path(config).parent / "store")


def lines(errors: str) -> list[str]:
    return [line for line in errors.splitlines() if line.startswith("refusal_lightning:")]


def test_a_node_without_the_model(run, tmp_path):
    config, home = run
    (tmp_path / "bare").mkdir()
    started = time.monotonic()
    nodes = start_nodes("cache", config, changes=[{"FOLDER": str(home)}, {"FOLDER": str(tmp_path / "bare")}])
    (first, told), (second, own) = finish(nodes)
    assert time.monotonic() - started < 90  # of which most is what Python takes to import everything
    assert second == 2 and "error in process 1 on" in lines(own)[0] and MODEL in lines(own)[0]
    assert first == 1 and "process 1 on" in lines(told)[0] and "ended before the work was done" in lines(told)[0]


def test_other_versions_on_one_node(run, tmp_path):
    config, home = run
    other = tmp_path / "other" / "transformer_lens-0.9.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: transformer-lens\nVersion: 0.9\n")
    root = str(Path(__file__).parents[2])
    changes = [{"FOLDER": str(home)}, {"FOLDER": str(home), "PYTHONPATH": f"{tmp_path / 'other'}:{root}"}]
    (first, told), (second, own) = finish(start_nodes("cache", config, changes=changes))
    assert (first, second) == (2, 2)
    (line,) = lines(told)
    assert "transformer-lens is 0.9 in process 1 on" in line and "in process 0 on" in line
    assert not lines(own)  # said once
    assert not (tmp_path / "store").exists()


def test_another_configuration_on_one_node(run, tmp_path):
    config, home = run
    (tmp_path / "elsewhere").mkdir()
    shutil.copytree(home, tmp_path / "elsewhere" / "home", symlinks=True)
    settings = yaml.safe_load(Path(config).read_text())
    for folder, size in ((home, 4), (tmp_path / "elsewhere" / "home", 8)):
        settings["cache"]["batch_size"] = size
        (folder / "own.yaml").write_text(yaml.safe_dump(settings))
    changes = [{"FOLDER": str(home)}, {"FOLDER": str(tmp_path / "elsewhere" / "home")}]
    (first, told), (second, _) = finish(start_nodes("cache", "own.yaml", changes=changes))
    assert (first, second) == (2, 2)
    assert "cache.batch_size is 8 in process 1 on" in lines(told)[0] and "and 4 in process 0" in lines(told)[0]


@pytest.mark.slow  # it waits as long as a network file system may take
def test_a_store_that_is_not_shared(run, tmp_path):
    config, home = run
    (tmp_path / "elsewhere").mkdir()
    shutil.copytree(home, tmp_path / "elsewhere" / "home", symlinks=True)
    changes = [{"FOLDER": str(home)}, {"FOLDER": str(tmp_path / "elsewhere" / "home")}]
    nodes = start_nodes("cache", config, "--store.root", "own-store", changes=changes)
    (first, told), (second, own) = finish(nodes)
    assert second == 2 and "need a shared folder" in lines(own)[0], own
    assert first == 1, told


@pytest.mark.parametrize("victim", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_node_killed(run, tmp_path, victim, undisturbed):
    """The other ends within a minute, and the same command ends with the bytes of an undisturbed run."""
    config, home = run
    changes = [{"FOLDER": str(home)}] * 2
    nodes = start_nodes("cache", config, changes=changes)
    while not list((tmp_path / "store").glob("*.zarr/resid_pre/c.*[0-9]")) and nodes[0].poll() is None:
        time.sleep(0.002)
    os.kill(nodes[victim].pid, signal.SIGKILL)
    started = time.monotonic()
    other, errors = finish([nodes[1 - victim]])[0]
    assert time.monotonic() - started < 60
    assert other == 1 and f"process {victim} on" in lines(errors)[0], errors
    finish([nodes[victim]])
    assert [status for status, _ in finish(start_nodes("cache", config, changes=changes))] == [0, 0]
    assert store_files(tmp_path / "store") == undisturbed


def test_the_interface_towards_a_host():
    assert interface_towards("127.0.0.1") == "lo"
    assert interface_towards("no-such-host.invalid") is None


def stop_when_busy(nodes: list, root: Path, *signals: tuple[int, int]) -> float:
    """Send each signal to its node once the store has a shard; seconds until all have ended."""
    while not list(root.glob("*.zarr/resid_pre/c.*[0-9]")) and nodes[0].poll() is None:
        time.sleep(0.002)
    for node, number in signals:
        os.kill(nodes[node].pid, number)
    started = time.monotonic()
    for node in nodes:
        node.wait(timeout=120)
    return time.monotonic() - started


@pytest.mark.parametrize(
    ("count", "signals"),
    [
        pytest.param(1, [(0, signal.SIGUSR1)], marks=pytest.mark.slow),
        (2, [(1, signal.SIGUSR1)]),
        pytest.param(2, [(0, signal.SIGTERM), (1, signal.SIGTERM)], marks=pytest.mark.slow),
    ],
)
def test_told_to_stop(run, tmp_path, count, signals, undisturbed):
    """Each node finishes the shard at hand and ends with 143, also those that no signal reached."""
    config, home = run
    changes = [{"FOLDER": str(home)}] * count
    nodes = start_nodes("cache", config, count=count, changes=changes)
    seconds = stop_when_busy(nodes, tmp_path / "store", *signals)
    ended = finish(nodes)
    assert [status for status, _ in ended] == [143] * count, ended
    assert seconds < 30
    (url,) = (tmp_path / "store").glob("*.zarr")
    pending = ActivationStore.open(url).pending()
    assert 0 < len(pending) < len(ActivationStore.open(url).shards)
    assert [problem for problem in verify(url) if not problem.missing] == []
    assert [status for status, _ in finish(start_nodes("cache", config, count=count, changes=changes))] == [0] * count
    assert store_files(tmp_path / "store") == undisturbed


def shards_done(root: Path) -> int:
    return len(list(root.glob("*.zarr/resid_pre/c.*[0-9]")))


def wait_until(what: Callable[[], bool], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_nobody_ends_before_the_slowest_has_finished(run, tmp_path, undisturbed):
    """Told to stop while only waiting, a process stays until the others have written what they have at hand."""
    config, home = run
    changes = [{"FOLDER": str(home)}] * 3
    nodes = start_nodes("cache", config, count=3, changes=changes)
    root = tmp_path / "store"
    wait_until(lambda: shards_done(root) > 0)
    slowest = nodes[2].pid
    os.kill(slowest, signal.SIGSTOP)
    try:
        (url,) = root.glob("*.zarr")
        shards = [shard.index for shard in ActivationStore.open(url).shards]
        others = {*share_of(shards, 0, 3), *share_of(shards, 1, 3)}
        wait_until(lambda: all(list(url.glob(f"resid_pre/c.{index}.*")) for index in others))
        time.sleep(2)  # until they wait for the slowest
        done = shards_done(root)
        os.kill(nodes[1].pid, signal.SIGTERM)
        time.sleep(3)
        assert [node.poll() for node in nodes] == [None] * 3
    finally:
        os.kill(slowest, signal.SIGCONT)
    ended = finish(nodes)
    assert [status for status, _ in ended] == [143] * 3, ended
    assert not any("ended before the work was done" in errors for _, errors in ended)
    assert 0 < len(ActivationStore.open(url).pending()) < len(undisturbed)
    # The one that the slowest computed, and those that its writer had in hand and in its queue.
    assert done < shards_done(root) <= done + 3
    assert [status for status, _ in finish(start_nodes("cache", config, count=3, changes=changes))] == [0] * 3
    assert store_files(root) == undisturbed


def test_processes_that_lightning_started_stop_too(run, tmp_path):
    """They all end with 143 and in order, though Lightning kills the others when one of them ends with an error."""
    config, home = run
    more = ["--trainer.devices", "3", "--store.shard_mb", "0.2"]
    (first,) = start_nodes("cache", config, *more, count=1, changes=[{"FOLDER": str(home)}])
    wait_until(lambda: shards_done(tmp_path / "store") > 0)
    children = psutil.Process(first.pid).children()
    assert len(children) == 2
    os.kill(children[0].pid, signal.SIGSTOP)  # so that it has a shard at hand for longer than Lightning waits
    os.kill(children[1].pid, signal.SIGTERM)
    time.sleep(7)
    assert first.poll() is None and all(child.is_running() for child in children)
    os.kill(children[0].pid, signal.SIGCONT)
    ((status, errors),) = finish([first])
    assert status == 143, errors
    (url,) = (tmp_path / "store").glob("*.zarr")
    assert [problem for problem in verify(url) if not problem.missing] == []


def test_the_shard_at_hand_is_finished(run, tmp_path, monkeypatch, capsys):
    """Told to stop in the middle of a shard of several batches, a process runs the rest of it, and nothing more."""
    config, home = run
    ran: list[int] = []
    step = ActivationModule.predict_step

    def counted(self: ActivationModule, batch: PromptBatch, batch_idx: int = 0) -> ActivationBatch:
        made = step(self, batch, batch_idx)
        ran.append(batch.shard)
        if len(ran) == 5:
            os.kill(os.getpid(), signal.SIGUSR1)
        return made

    monkeypatch.setattr(ActivationModule, "predict_step", counted)
    monkeypatch.chdir(home)
    with pytest.raises(SystemExit) as end:
        main(["cache", "--config", config, "--store.shard_mb", "0.2", "--cache.batch_size", "1"])
    assert end.value.code == 143
    assert "stopped before the work was done, as asked" in capsys.readouterr().out
    (url,) = (tmp_path / "store").glob("*.zarr")
    store = ActivationStore.open(url)
    done = set(range(len(store.shards))) - {shard.index for shard in store.pending()}
    assert len(ran) > 5 and set(ran) == done
    assert len(ran) == sum(store.shard(index).n_rows for index in done)
