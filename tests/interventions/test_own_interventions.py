"""An intervention that is registered is in files, keys, tables and the report; one that is not is refused by name."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import D_MODEL
from torch import Tensor

from refusal_lightning.cli import main
from refusal_lightning.interventions import KeyedIntervention, ablation, addition
from refusal_lightning.interventions.registry import (
    INTERVENTIONS,
    InterventionSpec,
    build_intervention,
    in_columns,
    label_of,
)
from refusal_lightning.runs.folder import RunFolder
from runs import write_config, write_data

WRITTEN = ("completions", "evaluations")


@pytest.fixture
def own(monkeypatch) -> None:
    """Half an ablation, given by hook functions, and an addition one layer up, given by its vector."""

    def half(direction: Tensor, layer: int, role: str) -> KeyedIntervention:
        whole = ablation(direction)

        def halfway(function: Any) -> Any:
            return lambda activation, hook: (activation + function(activation, hook)) / 2

        hooks = lambda n_layers: [(name, halfway(function)) for name, function in whole.hooks(n_layers)]  # noqa: E731
        return KeyedIntervention(replace(whole, hooks=hooks, ablated=None, everywhere=None), [0.5])

    def above(direction: Tensor, layer: int, role: str) -> KeyedIntervention:
        return KeyedIntervention(addition(direction, layer + 1, -2.0), [layer + 1, -2.0])

    monkeypatch.setattr(INTERVENTIONS, "_entries", dict(INTERVENTIONS))
    INTERVENTIONS.register("half", InterventionSpec("half an ablation", half))
    INTERVENTIONS.register("above", InterventionSpec("addition above", above))


@pytest.fixture(scope="module")
def selected(tmp_path_factory, tiny_llama_folder) -> str:
    """The configuration of a run with a direction below the last layer."""
    folder = tmp_path_factory.mktemp("own")
    data = write_data(folder / "data", train=6, val=3, test=2)
    config = write_config(
        folder,
        tiny_llama_folder,
        data,
        data={"root": str(data), "n_train": 4, "n_val": 2},
        select={"position": -1, "layer": 1},
        evaluate={"max_new_tokens": 3, "interventions": ["half", "baseline", "ablation", "above"]},
    )
    for stage in ("cache", "select"):
        assert main([stage, "--config", config]) == 0
    return config


def test_own_interventions_in_files_table_and_report(own, selected: str, capsys):
    assert main(["evaluate", "--config", selected]) == 0
    table = capsys.readouterr().out
    assert "baseline                  ablation          half an ablation            addition above" in table
    run = RunFolder(Path(selected).parent / "runs", "tiny")
    report = run.report.read_text()
    assert ">half an ablation</th>" in report and "<td>addition above</td>" in report
    for name in ("half", "above"):
        for dataset in ("harmful_test", "harmless_test"):
            evaluation = json.loads(run.completion_evaluations(dataset, name).read_text())
            assert evaluation["made_from"]["under"] == [name]
            assert len(json.loads(run.completions(dataset, name).read_text())) == 2
    losses = {
        name: json.loads(run.loss_eval(name).read_text())["alpaca_custom_completions"]["ce_loss"]
        for name in ("baseline", "half", "ablation", "above")
    }
    assert len(set(losses.values())) == 4
    assert main(["evaluate", "--config", selected]) == 0
    assert "nothing to compute" in capsys.readouterr().out


def test_another_version_of_a_plugin_moves_what_the_old_one_made_aside(own, selected: str, monkeypatch, capsys):
    assert main(["evaluate", "--config", selected]) == 0
    run = RunFolder(Path(selected).parent / "runs", "tiny")
    before = set(run.stale.glob("*"))
    origin = {"plugin": "half.py", "sha256": "1"}
    monkeypatch.setattr(INTERVENTIONS, "origin", lambda name: origin if name == "half" else {})
    assert main(["evaluate", "--config", selected]) == 0
    (folder,) = set(run.stale.glob("*")) - before
    aside = {str(path.relative_to(folder)) for path in folder.rglob("*.json") if path.name != "run.json"}
    of_half = {f"completions/{name}_test_half_{what}.json" for name in ("harmful", "harmless") for what in WRITTEN}
    compared = {f"completions/{name}_test_comparisons.json" for name in ("harmful", "harmless")}
    assert aside == {*of_half, *compared, "loss_evals/half_loss_eval.json"}
    made_from = json.loads(run.completion_evaluations("harmful_test", "half").read_text())["made_from"]
    assert made_from["plugins"] == {"half": origin}


def test_an_unknown_intervention_is_refused_before_any_work(selected: str, capsys):
    for stage in ("evaluate", "capability", "plan"):
        key = "evaluate" if stage == "plan" else stage
        assert main([stage, "--config", selected, f"--{key}.interventions", "[baseline, halve]"]) == 2
        captured = capsys.readouterr()
        says = f"{key}.interventions: there is no intervention 'halve'; there are baseline, ablation, actadd"
        assert says in captured.err
        # The configuration's other sections are looked at too, and nothing else is said.
        lines = captured.out.splitlines()
        assert all(
            line.startswith("warning: evaluate.interventions: there is no intervention 'half'") for line in lines
        )
        assert bool(lines) == (stage == "capability")


def test_a_run_of_a_plugin_that_is_not_here_keeps_its_columns():
    assert in_columns(["half", "ablation", "half", "baseline"]) == ["baseline", "ablation", "half"]
    assert (label_of("half"), label_of("actadd")) == ("half", "activation addition")


def test_keys_hold_name_direction_and_more(own):
    direction = torch.arange(D_MODEL, dtype=torch.float64)
    values = direction.tolist()
    wanted = {
        "baseline": ["baseline"],
        "ablation": ["ablation", values],
        "actadd": ["actadd", values, 2, -1.0],
        "half": ["half", values, 0.5],
        "above": ["above", values, 3, -2.0],
    }
    keys = {name: build_intervention(name, direction, 2, "harmful").depends_on for name in wanted}
    assert keys == wanted
    assert build_intervention("actadd", direction, 2, "harmless").depends_on[-1] == 1.0
    assert build_intervention("half", direction, 2, "harmful").intervention.name == "half"
