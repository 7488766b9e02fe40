"""The compute step of `select` as a notebook calls it: without a run's folder, and nothing written to the store."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from nodes import ROOT
from tiny_models import D_MODEL

from refusal_lightning.cli import main
from refusal_lightning.config import CacheConfig, DataConfig, ModelConfig, SelectConfig, StoreConfig, TrainerConfig
from refusal_lightning.directions.estimators.registry import ESTIMATORS
from refusal_lightning.directions.estimators.spec import EstimatorSpec
from refusal_lightning.directions.selection.candidates import rows
from refusal_lightning.directions.selection.choose import NoCandidateError
from refusal_lightning.inputs.model import open_model
from refusal_lightning.models.weights import Weights
from refusal_lightning.stages.select.direction import select_direction
from refusal_lightning.stages.select.inputs import SelectionInputs
from refusal_lightning.stages.select.result import describe
from refusal_lightning.stages.select.runner import in_memory
from runs import write_config, write_data

CPU = TrainerConfig(accelerator="cpu", progress_bar=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_llama_folder) -> Path:
    """A filled store; no run yet."""
    folder = tmp_path_factory.mktemp("notebook")
    data = write_data(folder / "data", train=20, val=4, test=2)
    config = write_config(
        folder,
        tiny_llama_folder,
        data,
        data={"root": str(data), "n_train": 18, "n_val": 3},
        select={"mode": "staged", "prune_layers": None, "batch_size": 8, "answer_kl_tokens": 2},
    )
    assert main(["cache", "--config", config]) == 0
    return folder


@pytest.fixture
def settings(folder: Path) -> SelectConfig:
    return SelectConfig(**yaml.safe_load((folder / "config.yaml").read_text())["select"])


@pytest.fixture
def inputs(folder: Path, settings: SelectConfig) -> SelectionInputs:
    config = yaml.safe_load((folder / "config.yaml").read_text())
    model, data = ModelConfig(**config["model"]), DataConfig(**config["data"])
    return SelectionInputs.open(
        open_model(model), data, StoreConfig(**config["store"]), CacheConfig(**config["cache"]), settings
    )


def files(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_without_a_run_it_is_what_the_run_has(folder, inputs, settings, monkeypatch, tmp_path):
    before = files(folder)
    with in_memory(CPU) as runner:
        result = select_direction(inputs, "mean_difference", settings, runner)
        with monkeypatch.context() as patch:
            patch.delattr(Weights, "engine")  # all scores are there: the model is not loaded
            again = select_direction(inputs, "mean_difference", settings, runner)
    assert files(folder) == before
    assert not isinstance(result.choice, NoCandidateError) and not isinstance(again.choice, NoCandidateError)
    assert again.choice == result.choice and describe(again) == describe(result)
    assert result.uncertainty is not None and result.cosmic is not None and result.hooks_proved is None

    runs = tmp_path / "runs"
    assert main(["select", "--config", str(folder / "config.yaml"), "--runs.root", str(runs)]) == 0
    run = runs / "tiny"
    assert result.vector is not None
    assert torch.equal(torch.load(run / "direction.pt"), torch.from_numpy(result.vector))
    assert json.loads((run / "direction_metadata.json").read_text()) == {
        "pos": result.choice.position,
        "layer": result.choice.layer,
    }
    written = json.loads((run / "select_direction" / "direction_evaluations.json").read_text())
    np.testing.assert_equal([{k: np.nan if v is None else v for k, v in row.items()} for row in written],
                            rows(result.table.means()))  # fmt: skip
    record = json.loads((run / "run.json").read_text())["select"]
    assert record["selected"] == result.choice.scores.row() and record["scores"] == result.key
    kl = json.loads((run / "select_direction" / "answer_kl.json").read_text())
    assert {(r["position"], r["layer"]): r["kl"] for r in kl} == {p: x.mean() for p, x in result.answer_kl.items()}


def test_what_is_told(inputs, settings):
    with in_memory(CPU) as runner:
        found = select_direction(inputs, "mean_difference", settings, runner)
        by_hand = dataclasses.replace(settings, position=-1, layer=0, answer_kl_tokens=0)
        chosen = select_direction(inputs, "mean_difference", dataclasses.replace(by_hand, layer=1), runner)
        none_left = dataclasses.replace(settings, induce_threshold=1e3)
        nothing = select_direction(inputs, "mean_difference", none_left, runner)
    choice, wins, cosmic, kl = describe(found)
    assert choice.startswith("select: position ") and choice.endswith(" candidates passed")
    assert wins.startswith("select: ") and " resamples of the validation prompts" in wins
    assert cosmic.startswith("select: COSMIC") and kl.startswith("select: KL over the first 2 answer tokens ")
    (line,) = describe(chosen)
    assert "position -1, layer 1 chosen by hand" in line and chosen.uncertainty is None and chosen.cosmic is None
    assert isinstance(nothing.choice, NoCandidateError) and nothing.vector is None and not nothing.answer_kl
    assert describe(nothing) == [nothing.choice.report.text()]


@pytest.mark.parametrize("stage", ["select", "analyze", "plan"])
def test_an_unknown_estimator_is_refused_by_name(folder, capsys, stage):
    """Before anything is opened: there is no such model either."""
    arguments = ["--model.name", str(folder / "nowhere"), "--select.estimators", '["mean_differnce"]']
    assert main([stage, "--config", str(folder / "config.yaml"), *arguments]) == 2
    said = capsys.readouterr().err
    assert "select.estimators: there is no estimator 'mean_differnce'; there are mean_difference, unit_mean" in said


def test_an_estimator_of_ones_own_is_one_entry(inputs, settings, monkeypatch):
    """Of rows without passes over them, however many prompts there are; and of means."""
    monkeypatch.setattr(ESTIMATORS, "_entries", dict(ESTIMATORS))
    monkeypatch.setattr("refusal_lightning.inputs.stored_activations.FEW", 1)
    assert sum(len(inputs.kept[f"{kind}_train"].prompts) for kind in ("harmful", "harmless")) > D_MODEL
    median = EstimatorSpec("medians", lambda harmful, harmless: np.median(harmful, 0) - np.median(harmless, 0))
    twice = EstimatorSpec("twice the difference", of_means=lambda means: 2 * (means.harmful() - means.harmless()))
    ESTIMATORS.register("median", median)
    ESTIMATORS.register("twice", twice)
    with in_memory(CPU) as runner:
        found = {
            name: select_direction(inputs, name, settings, runner) for name in ("median", "twice", "mean_difference")
        }
    np.testing.assert_array_equal(found["twice"].directions, 2 * found["mean_difference"].directions)
    store, kept = inputs.store, inputs.kept
    harmful, harmless = (
        store.read("resid_pre", store.rows(kept[name].prompts.hashes), layers=[1], positions=[-1])[:, 0, 0]
        for name in ("harmful_train", "harmless_train")
    )
    expected = np.median(harmful.astype(float), axis=0) - np.median(harmless.astype(float), axis=0)
    np.testing.assert_allclose(found["median"].directions[-1, 1], expected, atol=1e-12)
    assert found["median"].key != found["twice"].key != found["mean_difference"].key


def test_lightning_is_loaded_with_the_model_and_not_before():
    """It takes seconds, and a selection from scores that are there has no use for it, nor for the doctor's checks."""
    code = "import sys, refusal_lightning.stages.select.stage; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert not {"lightning", "transformers", "matplotlib", "refusal_lightning.doctor.registry"} & set(loaded.split())
