"""`run`: what the stages write by themselves, with one model; mistakes first; killed and continued."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from nodes import ROOT
from same_results import results

from refusal_lightning.cli import main
from refusal_lightning.cli.parsing import parse
from refusal_lightning.config import EvaluateConfig
from refusal_lightning.distributed.shutdown import request_shutdown
from refusal_lightning.errors import UserError
from refusal_lightning.inference import judge_model
from refusal_lightning.models.weights import Weights
from refusal_lightning.modules.generation import GenerationModule
from refusal_lightning.pipeline.run import run
from refusal_lightning.pipeline.stages import DEFAULT, STAGES, in_order
from refusal_lightning.stages.analyze import stage
from runs import write_config, write_data

STAGES_ALONE = ("cache", "select", "evaluate", "analyze", "report")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory, tiny_llama_folder) -> Path:
    """A folder with a model and prompts, and a configuration whose paths are relative to it."""
    folder = tmp_path_factory.mktemp("inputs")
    write_data(folder / "data", train=12, val=4, test=4)
    shutil.copytree(tiny_llama_folder, folder / "model")
    path = write_config(
        folder,
        Path("model"),
        Path("data"),
        data={"n_train": 10, "n_val": 4},
        store={"root": "store"},
        runs={"root": "runs"},
        select={"estimators": ["mean_difference", "lda"], "answer_kl_tokens": 2},
        evaluate={"n_test": 4, "judges": ["substring", "harmbench"]},
        judging={"harmbench_model": "model", "local_dtype": "float32"},
        analyze={"bootstrap": 20},
    )
    assert Path(path).name == "config.yaml"
    return folder


def fresh(inputs: Path, folder: Path, **changes: dict) -> Path:
    """A copy of the inputs, with nothing computed; sections may be changed."""
    shutil.copytree(inputs, folder)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    for section, values in changes.items():
        config[section] = {**config.get(section, {}), **values}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


@pytest.fixture
def home(inputs, tmp_path, monkeypatch) -> Path:
    """A fresh copy of the inputs, to work in."""
    folder = fresh(inputs, tmp_path / "home")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="module")
def by_stages(inputs, tmp_path_factory) -> Path:
    """What the stages leave that are run one by one, with one thread."""
    folder = fresh(inputs, tmp_path_factory.mktemp("stages") / "home")
    before, threads = Path.cwd(), torch.get_num_threads()
    os.chdir(folder)
    torch.set_num_threads(1)
    try:
        for stage in STAGES_ALONE:
            assert main([stage, "--config", "config.yaml"]) == 0
    finally:
        os.chdir(before)
        torch.set_num_threads(threads)
    return folder


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def loaded(monkeypatch) -> Callable[[], int]:
    """How many models have their weights in memory."""
    every: list[Weights] = []
    made = Weights.__init__

    def noted(self, checkpoint):
        every.append(self)
        made(self, checkpoint)

    monkeypatch.setattr(Weights, "__init__", noted)
    return lambda: sum(one._engine is not None for one in every)


def differing(one: Path, other: Path, journals: bool = True) -> list[str]:
    """Names of what is not the same in both; each process has a journal of its own."""
    first, second = (
        {name: content for name, content in results(folder).items() if journals or "/.journal/" not in name}
        for folder in (one, other)
    )
    assert sum(name.endswith("_completions.json") for name in first) == 6
    assert any("/analysis/" in name for name in first) and any(name.endswith("report.html") for name in first)
    return sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name))


def command(folder: Path, *words: str, script: str = "") -> subprocess.CompletedProcess[str]:
    """A command in a process of its own; ``script`` is run before."""
    start = ["-c", f"{script}\nfrom refusal_lightning.cli import main\nimport sys\nsys.exit(main())"] if script else []
    program = [sys.executable, *(start or ["-m", "refusal_lightning"]), *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(program, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def test_the_bytes_of_the_stages_with_one_model(home, by_stages, loads, loaded, one_thread, monkeypatch, capsys):
    """Loaded once, and not in memory beside the local judge; again, nothing is computed and nothing changes."""
    load = judge_model.load_judge
    beside = []

    def judged(*arguments, **named):
        beside.append(loaded())
        return load(*arguments, **named)

    monkeypatch.setattr("refusal_lightning.stages.evaluate.judging.load_judge", judged)
    assert main(["run", "--config", "config.yaml"]) == 0
    assert loads == ["float32"]
    assert beside == [0]
    assert differing(by_stages, home) == []
    before = results(home)
    monkeypatch.setattr(Weights, "engine", lambda *_: pytest.fail("the model was loaded"))
    capsys.readouterr()
    assert main(["run", "--config", "config.yaml"]) == 0
    said = capsys.readouterr().out
    for line in ("cache: nothing to do", "select: nothing to compute", "evaluate: nothing to compute", "report: wrote"):
        assert line in said
    assert results(home) == before


def test_weights_are_let_go_before_a_stage_that_needs_none(home, loaded, monkeypatch):
    opened = stage.open_analysis_inputs
    beside = []

    def noted(*arguments):
        beside.append(loaded())
        return opened(*arguments)

    monkeypatch.setattr(stage, "open_analysis_inputs", noted)
    assert main(["run", "--config", "config.yaml", "--stages", "cache", "select", "analyze"]) == 0
    assert beside == [0]


def test_two_processes(inputs, by_stages, tmp_path):
    """They meet once, the first goes on alone to the stages that are not shared, and the bytes are those of one."""
    folder = fresh(inputs, tmp_path / "home")
    done = command(folder, "run", "--config", "config.yaml", "--trainer.devices", "2")
    assert done.returncode == 0, done.stderr
    assert differing(by_stages, folder, journals=False) == []


# The process dies in the middle of a stage's work, at the second call of this.
DEADLY = """
import os, importlib
module, name = {place!r}.split(":")
owner, attribute = getattr(importlib.import_module(module), name.split(".")[0]), name.split(".")[1]
step, calls = getattr(owner, attribute), []
def deadly(*arguments, **named):
    calls.append(1)
    if len(calls) > 1:
        os._exit(9)
    return step(*arguments, **named)
setattr(owner, attribute, deadly)
"""
PLACES = {
    "cache": "refusal_lightning.modules.activations:ActivationModule.predict_step",
    "select": "refusal_lightning.modules.scores:ScoreModule.predict_step",
    "evaluate": "refusal_lightning.modules.generation:GenerationModule.predict_step",
    "analyze": "refusal_lightning.runs.folder:RunFolder.analysis",
}


def test_killed_in_each_stage(inputs, by_stages, tmp_path):
    """What was done stays done, and in the end all is as if nothing had happened."""
    folder = fresh(inputs, tmp_path / "home")
    told = {}
    for name, place in PLACES.items():
        done = command(folder, "run", "--config", "config.yaml", script=DEADLY.format(place=place))
        assert done.returncode == 9, (name, done.stderr)
        told[name] = done.stdout
    assert "cache: nothing to do" not in told["select"] and "cache: nothing to do" in told["evaluate"]
    assert "select: nothing to compute" not in told["evaluate"] and "select: nothing to compute" in told["analyze"]
    done = command(folder, "run", "--config", "config.yaml")
    assert done.returncode == 0, done.stderr
    assert "evaluate: nothing to compute" in done.stdout and "projection: wrote" in done.stdout
    assert differing(by_stages, folder) == []


def test_told_to_stop(home, monkeypatch, capsys):
    """It ends as the stage would, with what was at hand written; no later stage is begun."""
    step = GenerationModule.predict_step

    def stopped(self, batch, batch_idx=0):
        if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:  # in the loop, and not in the proof before it
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, batch, batch_idx)

    monkeypatch.setattr(GenerationModule, "predict_step", stopped)
    with pytest.raises(SystemExit) as end:
        main(["run", "--config", "config.yaml", "--evaluate.batch_size", "1"])
    assert end.value.code == 143
    assert "stopped before the work was done, as asked" in capsys.readouterr().out
    assert list((home / "runs" / "tiny" / ".journal" / "answers").glob("*.jsonl"))
    assert not (home / "runs" / "tiny" / "analysis").exists()


def test_told_to_stop_when_a_stage_had_no_more_to_do(home, monkeypatch, capsys):
    """A notice that only its end could have heard is not lost."""
    monkeypatch.setattr("refusal_lightning.stages.cache.stage.tell", lambda _: request_shutdown())
    with pytest.raises(SystemExit) as end:
        main(["run", "--config", "config.yaml"])
    assert end.value.code == 143
    assert "select:" not in capsys.readouterr().out


MISTAKES: dict[str, tuple[dict[str, Any], list[str], str]] = {
    "a judge without its key": ({"evaluate": {"judges": ["strongreject"]}}, [], "OPENAI_API_KEY"),
    "no such prompts": ({"evaluate": {"harmful": ["no_such_set"]}}, [], "no_such_set"),
    "no such texts": ({"evaluate": {"losses": ["nowhere.json"]}}, [], "nowhere.json"),
    "two sets of one name": ({"evaluate": {"harmful": ["harmful_test"] * 2}}, [], "harmful_test"),
    "no such candidate": ({"select": {"position": -1, "layer": 99}}, [], "select.layer 99"),
    "no such estimator": ({"select": {"estimators": ["mena"]}}, [], "select.estimators"),
    "no such intervention": ({"evaluate": {"interventions": ["ablaton"]}}, [], "evaluate.interventions"),
    "no such analysis": ({"analyze": {"analyses": ["sep"]}}, [], "analyze.analyses"),
    "too little is cached": ({"cache": {"hook_points": ["mlp_out"]}}, [], "resid_pre"),
    "a file for a folder": ({"runs": {"root": "config.yaml"}}, [], "runs.root"),
    "one process only": ({}, ["--trainer.devices", "2", "--stages", *DEFAULT, "capability"], "capability runs in one"),
    "nothing selected": ({}, ["--stages", "cache", "evaluate"], "run `select` first"),
    "no store": ({}, ["--stages", "evaluate", "analyze"], "run `cache`"),
    "nothing to report on": ({}, ["--stages", "cache", "report"], "run `evaluate` first"),
    "no such stage": ({}, ["--stages", "cache", "selekt"], "did you mean select?"),
    "no such key": ({"analyze": {"bootstraps": 3}}, [], "analyze"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_told_before_the_first_stage(inputs, tmp_path, monkeypatch, capsys, mistake):
    changes, more, said = MISTAKES[mistake]
    folder = fresh(inputs, tmp_path / "home", **changes)
    monkeypatch.chdir(folder)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert main(["run", "--config", "config.yaml", *more]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert said in line
    assert not (folder / "store").exists() and not (folder / "runs").exists()


def test_the_run_of_another_model_is_left_alone(by_stages, inputs, tiny_folder, tmp_path, monkeypatch, capsys):
    """Told before anything is cached, unless it is to be replaced."""
    folder = fresh(inputs, tmp_path / "home", model={"name": str(tiny_folder("qwen2"))})
    shutil.copytree(by_stages / "runs", folder / "runs")
    monkeypatch.chdir(folder)
    assert main(["run", "--config", "config.yaml"]) == 2
    assert "holds the run of another model" in capsys.readouterr().err
    assert not (folder / "store").exists()
    replace = ["--runs.replace", "true", "--stages", "cache,select"]
    assert main(["run", "--config", "config.yaml", *replace]) == 0


def test_nothing_chosen_ends_the_run(inputs, tmp_path):
    """With the stage's status and message; the other process says nothing more."""
    folder = fresh(inputs, tmp_path / "home", select={"kl_threshold": -1.0})
    done = command(folder, "run", "--config", "config.yaml", "--trainer.devices", "2")
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("refusal_lightning:")]
    assert "no direction selected" in line
    assert not (folder / "runs" / "tiny" / "completions").exists()


def test_what_it_returns(home):
    """Each stage's result and seconds, in the order of the stages and not of their names."""
    words = ["--config", "config.yaml", "--stages", "evaluate,report", "cache", "select", "analyze"]
    _, values = parse("run", [*words, "--evaluate.judges", '["substring"]'])
    found = run(**values)
    assert tuple(found.stages) == STAGES_ALONE == tuple(in_order(["report", *STAGES_ALONE]))
    assert found.stages["cache"].result.prompts == 28
    assert list(found.stages["select"].result) == ["mean_difference", "lda"]
    selected = found.stages["select"].result["mean_difference"]
    assert selected.direction.vector.shape == (32,)
    assert found.stages["evaluate"].result.inputs.config == EvaluateConfig(
        n_test=4, judges=["substring"], max_new_tokens=6, batch_size=2
    )
    assert set(found.stages["analyze"].result.analyses) == {"separability", "similarity", "stability", "projection"}
    assert (
        found.stages["report"].result.selected["layer"]
        == found.stages["select"].result["mean_difference"].choice.place[1]
    )
    assert all(stage.seconds > 0 for stage in found.stages.values())
    assert found.seconds == sum(stage.seconds for stage in found.stages.values())


def test_stages_by_name():
    assert in_order(["report", "cache", "cache"]) == ["cache", "report"]
    assert set(DEFAULT) < set(STAGES)
    with pytest.raises(UserError, match="stages: none is named"):
        in_order([])
    with pytest.raises(UserError, match="'doctor' that can be run; there are cache, select"):
        in_order(["doctor"])


def test_the_report_alone(by_stages, inputs, tmp_path, monkeypatch, capsys):
    """The same bytes from the run's folder alone, by configuration and by folder."""
    folder = tmp_path / "home"
    folder.mkdir()
    shutil.copytree(by_stages / "runs", folder / "runs")
    monkeypatch.chdir(folder)
    run = folder / "runs" / "tiny"
    page, record = (run / "report.html").read_bytes(), json.loads((run / "run.json").read_text())
    for words in (["--model.alias", "tiny"], ["--run", "runs/tiny"], ["--run", "runs/tiny/"]):
        (run / "report.html").unlink()
        assert main(["report", *words]) == 0
        assert (run / "report.html").read_bytes() == page
        assert json.loads((run / "run.json").read_text()) == record
    monkeypatch.chdir(run)
    assert main(["report", "--run", "."]) == 0
    assert (run / "report.html").read_bytes() == page
    monkeypatch.chdir(folder)
    capsys.readouterr()
    for words in (["--run", "runs/other"], ["--model.name", "other"]):
        assert main(["report", *words]) == 2
        assert "runs/other holds no evaluation" in capsys.readouterr().err
    assert not (folder / "runs" / "other").exists()
