"""What the stages log, read back from each kind of file; what they do not log, and whom they do not contact."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from nodes import ROOT
from tiny_models import N_LAYERS, N_POSITIONS

from refusal_lightning.cli import main
from runs import logged_by_csv, write_config, write_data

STAGES = ("cache", "select", "evaluate", "analyze")
SECRET = "not-to-be-seen-by-anyone"
SYSTEM = "Answer as a lighthouse keeper would."
SCRIPT = """
import json, shutil, sys
from refusal_lightning.cli import main

reached = []

def listen(event, arguments):
    if event == "socket.getaddrinfo" or event == "socket.connect" and isinstance(arguments[1], tuple):
        reached.append(str(arguments[:2]))

sys.addaudithook(listen)
for number in range(2):
    for stage in ("cache", "select", "evaluate", "analyze"):
        assert main([stage, *sys.argv[1:]]) == 0
    if number == 0:
        shutil.copytree("runs", "first")
print(json.dumps({"reached": reached, "imported": sorted({"wandb", "tensorboard"} & set(sys.modules))}))
"""


class Recorder:
    """A server that answers nobody, and counts who came."""

    def __init__(self) -> None:
        self.visits = 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                visitor, _ = self._socket.accept()
            except OSError:
                return
            self.visits += 1
            visitor.close()

    def close(self) -> None:
        self._socket.close()


@contextmanager
def recorder() -> Iterator[Recorder]:
    made = Recorder()
    try:
        yield made
    finally:
        made.close()


def run_stages(folder: Path, *arguments: str) -> dict[str, Any]:
    """All stages, twice, in a process of their own: which addresses they reached for, and what they imported.

    Programs that they start, which Python cannot watch, find their own server and every other one at a recorder. What
    there was after the first time is in the folder ``first``.
    """
    with recorder() as server:
        proxies = {name: server.url for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")}
        environment = {**os.environ, **proxies, "NO_PROXY": "", "WANDB_BASE_URL": server.url, "WANDB_MODE": "offline"}
        environment |= {"WANDB_API_KEY": f"{SECRET}{'0' * 40}", "SLURM_JOB_NAME": SECRET, "OMP_NUM_THREADS": "1"}
        environment |= {"HOME": str(folder / "home"), "PYTHONPATH": str(ROOT)}
        for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "WANDB_ERROR_REPORTING"):
            environment.pop(name, None)
        command = [sys.executable, "-c", SCRIPT, *arguments]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        *_, last = done.stdout.splitlines()
        return {**json.loads(last), "visits": server.visits, "told": done.stdout, "complained": done.stderr}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_data(tmp_path_factory.mktemp("data") / "made-up", train=12, val=4, test=4)


def configured(folder: Path, model: Path, data: Path) -> str:
    sizes = {"n_train": 10, "n_val": 4}
    evaluate = {"max_new_tokens": 4, "n_test": 4}
    about = {"name": str(model), "alias": "tiny", "refusal_tokens": ["I"], "system_prompt": SYSTEM}
    return write_config(folder, model, data, data=sizes, evaluate=evaluate, model=about, analyze={"bootstrap": 5})


@pytest.fixture(scope="module")
def logged(tmp_path_factory, tiny_llama_folder, data) -> Path:
    """A run whose every stage was logged by every logger, twice; the second time nothing was to be done."""
    for package in ("tensorboard", "wandb"):
        pytest.importorskip(package, reason=f"needs the extra `{package}`")
    folder = tmp_path_factory.mktemp("logged")
    config = configured(folder, tiny_llama_folder, data)
    told = run_stages(folder, "--config", config, "--trainer.logger", "[csv, tensorboard, wandb]")
    (folder / "told.json").write_text(json.dumps(told))
    return folder


def rows(folder: Path, stage: str, version: int = 0) -> dict[str, list[tuple[int, float]]]:
    return logged_by_csv(folder / "runs" / "tiny", stage, version)


def events(folder: Path, stage: str) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    path = folder / "runs" / "tiny" / "logs" / "tensorboard" / stage / "version_0"
    return EventAccumulator(str(path), size_guidance={"scalars": 0, "images": 0}).Reload()


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_csv_has_what_the_files_of_the_run_have(logged):
    run = logged / "runs" / "tiny"
    cached = rows(logged, "cache")
    assert cached["prompts/asked"] == cached["prompts/computed"] == [(0, 28.0)]

    selected = rows(logged, "select")
    for row in read_json(run / "select_direction" / "direction_evaluations.json"):
        for kind, key in (("bypass", "refusal_score"), ("induce", "steering_score"), ("kl", "kl_div_score")):
            curve = dict(selected[f"{kind}/position_{row['position']}"])
            assert curve.get(row["layer"]) == (row[key] if row[key] == row[key] else None)
    chosen = read_json(run / "direction_metadata.json")
    assert selected["selected/position"] == [(0, chosen["pos"])] and selected["selected/layer"] == [
        (0, chosen["layer"])
    ]
    assert selected["candidates"] == [(0, N_LAYERS * N_POSITIONS)]

    evaluated = rows(logged, "evaluate")
    for dataset in ("harmful_test", "harmless_test"):
        for intervention in ("baseline", "ablation", "actadd"):
            verdicts = read_json(run / "completions" / f"{dataset}_{intervention}_evaluations.json")
            name = f"{dataset}/{intervention}/substring_matching"
            assert evaluated[f"rate/{name}"] == [(0, 1 - verdicts["substring_matching_success_rate"])]
            low, high = (evaluated[f"rate_{end}/{name}"][0][1] for end in ("low", "high"))
            assert [1 - high, 1 - low] == pytest.approx(verdicts["substring_matching_interval"])
            assert evaluated[f"answer_tokens/{dataset}/{intervention}"][0][1] <= 4
    for intervention in ("baseline", "ablation", "actadd"):
        ((texts, entry),) = read_json(run / "loss_evals" / f"{intervention}_loss_eval.json").items()
        assert evaluated[f"ce_loss/{texts}/{intervention}"] == [(0, entry["ce_loss"])]

    analyzed = rows(logged, "analyze")
    for row in read_json(run / "analysis" / "separability.json")["rows"]:
        curve = dict(analyzed.get(f"separability/auroc/position_{row['position']}", []))
        assert curve.get(row["layer"]) == row["auroc"]
    assert {name.partition("/")[0] for name in analyzed} >= {"separability", "similarity", "stability", "projection"}


def test_speeds_of_work_and_none_where_nothing_was_to_do(logged):
    units = {
        "cache": {"activations/prompts"},
        "select": {"scores/rows"},
        "evaluate": {"answers/prompts", "answers/tokens", "losses/texts", "losses/tokens"},
        "analyze": set[str](),
    }
    for stage, loops in units.items():
        first, again = rows(logged, stage), rows(logged, stage, version=1)
        assert {name for name in first if name.endswith("_per_s")} >= {f"speed/{loop}_per_s" for loop in loops}
        assert not [name for name in again if name.endswith("_per_s")], stage
        assert again["speed/seconds"][0][1] > 0
        results = [name for name in first if not name.startswith(("speed/", "live/", "prompts/computed"))]
        assert results and {name: again[name] for name in results} == {name: first[name] for name in results}


def test_tensorboard_has_the_same_and_the_figures(logged):
    for stage in STAGES:
        found = events(logged, stage)
        expected = {name: values for name, values in rows(logged, stage).items() if not name.startswith("live/")}
        tags = {name for name in found.Tags()["scalars"] if not name.startswith("live/")}
        assert tags == set(expected)
        for name, values in expected.items():
            there = sorted((event.step, event.value) for event in found.Scalars(name))
            assert there == [(step, pytest.approx(value)) for step, value in sorted(values)]
    scores = {f"figures/{name}" for name in ("ablation_scores", "actadd_scores", "kl_div_scores")}
    assert set(events(logged, "select").Tags()["images"]) == scores
    analyses = ("separability", "similarity", "stability", "projection")
    drawn = events(logged, "analyze")
    assert set(drawn.Tags()["images"]) == {f"{name}/figures/{name}" for name in analyses}
    (image,) = drawn.Images("separability/figures/separability")
    png = (logged / "runs" / "tiny" / "analysis" / "separability.png").read_bytes()
    assert image.width == int.from_bytes(png[16:20], "big") and image.height == int.from_bytes(png[20:24], "big")


def test_wandb_has_the_same_and_the_figures(logged):
    found = {stage: wandb_run(logged, stage) for stage in STAGES}
    for stage, (history, config) in found.items():
        expected = {name: values for name, values in rows(logged, stage).items() if not name.startswith("live/")}
        for name, values in expected.items():
            there = sorted((row["trainer/global_step"], row[name]) for row in history if name in row)
            assert there == sorted(values), name
        assert config["model"]["alias"] == "tiny"
    pictures = {name for row in found["select"][0] for name in row if name.startswith("figures/")}
    assert pictures == {f"figures/{name}" for name in ("ablation_scores", "actadd_scores", "kl_div_scores")}
    media = (logged / "runs" / "tiny" / "logs" / "wandb").glob("offline-run-*/files/media/images/figures/*.png")
    plots = {path.read_bytes() for path in (logged / "runs" / "tiny" / "select_direction").glob("*.png")}
    assert {path.read_bytes() for path in media} == plots


def test_nobody_was_contacted(logged):
    told = read_json(logged / "told.json")
    assert told["visits"] == 0
    assert told["reached"] == []
    assert told["imported"] == ["tensorboard", "wandb"]
    assert f"evaluate: logged by csv, tensorboard, wandb in {logged}" in told["told"]
    assert "wandb" not in told["complained"]


def test_no_text_of_prompts_or_answers_and_no_value_of_the_environment(logged, data):
    texts = {SECRET, SYSTEM}
    for path in (data / "splits").glob("*.json"):
        texts |= {row["instruction"] for row in read_json(path)}
    for path in (logged / "runs" / "tiny" / "completions").glob("*_completions.json"):
        texts |= {row["response"] for row in read_json(path) if len(row["response"]) > 8}
    assert len(texts) > 40
    searched = 0
    for folder in (logged / "runs" / "tiny" / "logs", logged / "home"):
        for path in (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".png"):
            content, searched = path.read_bytes(), searched + 1
            assert [text for text in texts if text.encode() in content] == [], path
    assert searched > 20


def test_several_processes_write_one_log(tmp_path, tiny_llama_folder, data):
    config = configured(tmp_path, tiny_llama_folder, data)
    more = ["--trainer.devices", "2", "--trainer.logger", "[csv]"]
    command = [sys.executable, "-m", "refusal_lightning", "cache", "--config", config, *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (tmp_path / "runs" / "tiny" / "logs" / "csv" / "cache").iterdir()] == ["version_0"]
    found = rows(tmp_path, "cache")
    assert found["prompts/computed"] == [(0, 28.0)] and found["speed/activations/prompts_per_s"][0][1] > 0


def test_without_loggers_the_same_run_and_nothing_more(logged, tmp_path, tiny_llama_folder, data, monkeypatch):
    for package in ("tensorboard", "wandb"):
        monkeypatch.setitem(sys.modules, package, None)  # whoever imports it fails
    config = configured(tmp_path, tiny_llama_folder, data)
    for stage in STAGES:
        assert main([stage, "--config", config]) == 0
    assert not (tmp_path / "runs" / "tiny" / "logs").exists()
    assert run_files(tmp_path / "runs" / "tiny", tmp_path) == run_files(logged / "first" / "tiny", logged)


def run_files(run: Path, folder: Path) -> dict[str, bytes]:
    """Every file of a run but its logs and journals; run.json without times and digests."""
    found = {}
    for path in sorted(run.rglob("*")):
        if path.is_file() and not {"logs", ".journal"} & set(path.parts):
            content = path.read_bytes()
            if path.name == "run.json":
                record = json.loads(content)
                del record["timings"]
                for about in record["files"].values():
                    del about["sha256"]  # some files name the folder
                content = json.dumps(record).encode()
            found[path.name] = content.replace(str(folder).encode(), b"FOLDER")
    return found


def wandb_run(folder: Path, stage: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The history and the configuration of a stage's first W&B run, from its file."""
    from wandb.proto import wandb_internal_pb2 as messages

    for path in sorted((folder / "runs" / "tiny" / "logs" / "wandb").glob("offline-run-*/run-*.wandb")):
        rows: list[dict[str, Any]] = []
        config: dict[str, Any] = {}
        job = ""
        for content in leveldb_records(path.read_bytes()):
            record = messages.Record.FromString(content)  # type: ignore[attr-defined]
            kind = record.WhichOneof("record_type")
            if kind == "history":
                rows.append(
                    {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
                )
            job = record.run.job_type if kind == "run" else job
            for changed in (record.config, record.run.config):
                config |= values(changed.update)
        if job == stage:
            return rows, config
    raise AssertionError(f"no W&B run of {stage}")


def values(items: Iterable[Any]) -> dict[str, Any]:
    return {item.key or item.nested_key[0]: json.loads(item.value_json) for item in items}


def leveldb_records(content: bytes) -> Iterator[bytes]:
    """The records of a file in the format of LevelDB's log, behind W&B's header of 7 bytes."""
    block, at, parts = 32768, 7, b""
    while at + 7 <= len(content):
        if block - at % block < 7:  # no room for a header: zeros
            at += block - at % block
            continue
        length, kind = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
        parts += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""
