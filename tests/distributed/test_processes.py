"""Every stage over several processes writes the files that one process writes, byte for byte."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from nodes import ROOT, finish, start_nodes
from placement import spread

from refusal_lightning.cli import main
from refusal_lightning.store import ActivationStore
from runs import store_files, write_config, write_data

STAGES = ("cache", "select", "evaluate")
RULES = {"mode": "staged", "answer_kl_tokens": 2}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_data(tmp_path_factory.mktemp("data") / "made-up", train=12, val=4, test=4)


def configured(folder: Path, model: Path, data: Path) -> str:
    folder.mkdir()
    sizes = {"n_train": 10, "n_val": 4}
    judging = {"harmbench_model": str(model), "local_dtype": "float32"}
    evaluate = {"n_test": 4, "batch_size": 1, "judges": ["substring", "harmbench"]}
    return write_config(folder, model, data, data=sizes, select=RULES, evaluate=evaluate, judging=judging)


def together(stage: str, config: str, *more: str) -> None:
    """A stage as users start it, in processes that Lightning starts."""
    command = [sys.executable, "-m", "refusal_lightning", stage, "--config", config, *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def alone(stage: str, config: str, *more: str) -> None:
    """The same in this process, with one thread as the others have, so that sums are added in the same order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert main([stage, "--config", config, *more]) == 0
    finally:
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def by_one(tmp_path_factory, tiny_llama_folder, data) -> Path:
    """A run by one process."""
    folder = tmp_path_factory.mktemp("one") / "run"
    config = configured(folder, tiny_llama_folder, data)
    for stage in STAGES:
        alone(stage, config)
    return folder


def files(folder: Path) -> dict[str, bytes]:
    """The store's files, the scores in it and the run's results; run.json and the report hold times."""
    found = {f"store/{name}": content for name, content in store_files(folder / "store").items()}
    for path in sorted((folder / "runs").rglob("*")):
        if path.is_file() and path.name not in ("run.json", "report.html") and ".journal" not in path.parts:
            found[str(path.relative_to(folder))] = path.read_bytes()
    (url,) = (folder / "store").glob("*.zarr")
    store = ActivationStore.open(url)
    for name in store.results():
        arrays, _ = store.load_result(name) or ({}, {})
        found |= {f"{name.partition('-')[0]}/{key}": array.tobytes() for key, array in arrays.items()}
    assert json.loads((folder / "runs" / "tiny" / "run.json").read_text()).keys() >= {"select", "evaluate"}
    return found


def differing(one: Path, other: Path) -> list[str]:
    first, second = files(one), files(other)
    assert any("completions" in name for name in first) and any("loss" in name for name in first)
    return sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name))


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_the_files_of_one_process(by_one, count, tmp_path, tiny_llama_folder, data):
    config = configured(tmp_path / "run", tiny_llama_folder, data)
    for stage in STAGES:
        together(stage, config, "--trainer.devices", str(count))
    assert differing(by_one, tmp_path / "run") == []


def test_one_copy_on_each_of_two_nodes(by_one, tmp_path, tiny_llama_folder, data):
    """`device_map` over nodes, each of which holds its copy partly on disk."""
    config = configured(tmp_path / "run", tiny_llama_folder, data)
    more = ["--trainer.strategy", "device_map", "--trainer.devices", "2"]  # of one process, so two nodes make two
    more += ["--model.device_map", json.dumps(spread("llama"))]
    for stage in STAGES:
        if stage == "select":  # its passes are cache's and evaluate's, and starting processes takes most of the time
            alone(stage, config)
            continue
        ended = finish(start_nodes(stage, config, *more))
        assert [status for status, _ in ended] == [0, 0], ended
    assert differing(by_one, tmp_path / "run") == []


def test_two_processes_into_an_object_store(by_one, tmp_path, tiny_llama_folder, data, s3, monkeypatch, capsys):
    """Against a real S3 API: every number is that of one process and a local store, the scores' from there too."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3["key"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3["secret"])
    options = {"client_kwargs": s3["client_kwargs"]}
    config = configured(tmp_path / "run", tiny_llama_folder, data)
    root = f"s3://bucket/{tmp_path.name}"
    there = ["--store.root", root, "--store.options", json.dumps(options), "--trainer.devices", "2"]
    together("cache", config, *there)
    alone("select", config, *there[:4])
    assert main(["cache", "--config", config, *there[:4]]) == 0
    url = re.findall(r"are in (s3://\S+)", capsys.readouterr().out)[0]
    (local_url,) = (by_one / "store").glob("*.zarr")
    local, remote = ActivationStore.open(local_url), ActivationStore.open(url, options)
    hashes = local.prompts.hashes(complete=True)
    assert remote.prompts.hashes(complete=True) == hashes
    for name in ("resid_pre", "next_token_logits"):
        assert np.array_equal(remote.read(name, remote.rows(hashes)), local.read(name, local.rows(hashes)))
    for name in local.results():
        ours, theirs = (store.load_result(name) or ({}, {}) for store in (local, remote))
        assert {key: value.tobytes() for key, value in ours[0].items()} == {
            key: value.tobytes() for key, value in theirs[0].items()
        }
    assert main(["store", "verify", url, "--options", json.dumps(options)]) == 0


def test_a_full_disk_on_one_node(by_one, tmp_path, tiny_llama_folder, data):
    """It is named, the other node ends, what is there stays whole, and with room the same command does the rest."""
    config = configured(tmp_path / "run", tiny_llama_folder, data)
    alone("cache", config)
    (array,) = (tmp_path / "run" / "store").glob("*.zarr/resid_pre")
    shards = sorted(array.glob("c.*[0-9]"), key=lambda path: [int(part) for part in re.findall(r"\d+", path.name)])
    assert len(shards) >= 6
    for shard in shards[1:]:
        shard.unlink()
    # The second node alone sees a small disk in this place.
    copy, size = tmp_path / "copy", sum(-(-path.stat().st_size // 4096) * 4 for path in array.iterdir()) + 8
    script = f"cp -r {array} {copy} && mount -t tmpfs -o size={size}k tmpfs {array} && cp {copy}/* {array}"
    probe = subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False)
    if probe.returncode:
        pytest.skip("giving one process a disk of its own needs root")
    nodes = start_nodes("cache", config, prefix_1=["unshare", "-m", "sh", "-c", script + ' && exec "$@"', "sh"])
    (first, told), (second, own) = finish(nodes)
    assert second == 1 and "error in process 1 on" in own and "the disk is full" in own, own
    assert first == 1 and "process 1 on" in told, told
    alone("cache", config)
    assert store_files(tmp_path / "run" / "store") == store_files(by_one / "store")
