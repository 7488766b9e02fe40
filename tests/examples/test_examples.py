"""The examples run as they stand, named on the command line."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from nodes import ROOT

from refusal_lightning import plugins
from refusal_lightning.cli import main
from refusal_lightning.interventions.registry import INTERVENTIONS, build_intervention
from refusal_lightning.runs.folder import RunFolder
from runs import write_config, write_data


def run(*argv: str | Path) -> None:
    command = [sys.executable, "-m", "refusal_lightning", *map(str, argv)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_own_judge(tmp_path):
    long = "Blue is a colour that many people like. It is the colour of the sky, which I cannot say of green."
    rows = [
        {"category": None, "prompt": "Name a colour.", "response": response} for response in (long, "I cannot do that.")
    ]
    (tmp_path / "completions.json").write_text(json.dumps(rows))
    out = tmp_path / "verdicts.json"
    plugin = "examples/own_judge.py"
    where = ["--completions", tmp_path / "completions.json", "--out", out]
    run("judge", "--plugins", plugin, "--judges", "[substring, opening]", *where)
    evaluation = json.loads(out.read_text())
    assert [row["is_jailbreak_substring_matching"] for row in evaluation["completions"]] == [0, 0]
    assert [row["is_jailbreak_opening"] for row in evaluation["completions"]] == [1, 0]


def test_own_intervention(tmp_path, tiny_llama_folder):
    """Beside the paper's, with an own judge: from two plugins."""
    data = write_data(tmp_path / "data", train=6, val=3, test=2)
    names = ["baseline", "ablation", "late_ablation"]
    config = write_config(
        tmp_path,
        tiny_llama_folder,
        data,
        data={"root": str(data), "n_train": 4, "n_val": 2},
        select={"position": -1, "layer": 1},
        evaluate={"max_new_tokens": 3, "interventions": names, "judges": ["opening"]},
    )
    for stage in ("cache", "select"):
        assert main([stage, "--config", config]) == 0
    files = [f"examples/own_{what}.py" for what in ("intervention", "judge")]
    run("evaluate", "--config", config, "--plugins", files[0], "--plugins", files[1])
    written = RunFolder(tmp_path / "runs", "tiny")
    assert "ablation from the layer on" in written.report.read_text()
    losses = [json.loads(written.loss_eval(name).read_text())["alpaca_custom_completions"]["ce_loss"] for name in names]
    assert len(set(losses)) == 3
    assert "opening_success_rate" in json.loads(written.completion_evaluations("harmful_test", names[-1]).read_text())


def test_late_ablation_from_the_first_layer_is_ablation(monkeypatch):
    monkeypatch.setattr(INTERVENTIONS, "_entries", dict(INTERVENTIONS))
    monkeypatch.setattr(plugins, "_loaded", [])
    plugins.load_plugins([ROOT / "examples" / "own_intervention.py"])
    direction, stream = torch.randn(8, dtype=torch.float64), torch.randn(2, 3, 8, dtype=torch.float64)
    late = build_intervention("late_ablation", direction, 0, "harmful").intervention.hooks(3)
    whole = build_intervention("ablation", direction, 0, "harmful").intervention.hooks(3)
    assert [name for name, _ in late] == [name for name, _ in whole]
    for (_, one), (_, other) in zip(late, whole, strict=True):
        torch.testing.assert_close(one(stream, None), other(stream, None))
    from_two = build_intervention("late_ablation", direction, 2, "harmful").intervention.hooks(3)
    assert [name for name, _ in from_two] == [f"blocks.2.hook_{part}" for part in ("resid_pre", "attn_out", "mlp_out")]


def test_results_under_an_intervention_of_a_plugin_depend_on_its_content(monkeypatch):
    monkeypatch.setattr(INTERVENTIONS, "_entries", dict(INTERVENTIONS))
    monkeypatch.setattr(INTERVENTIONS, "_plugins", {})
    monkeypatch.setattr(plugins, "_loaded", [])
    plugins.load_plugins([file := ROOT / "examples" / "own_intervention.py"])
    direction = torch.ones(2, dtype=torch.float64)
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    origin = {"plugin": "own_intervention.py", "sha256": sha256}
    made = build_intervention("late_ablation", direction, 1, "harmful")
    assert made.depends_on == ["late_ablation", [1.0, 1.0], 1, origin]
    assert build_intervention("ablation", direction, 1, "harmful").depends_on == ["ablation", [1.0, 1.0]]
