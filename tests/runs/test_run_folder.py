"""A run's folder holds one model's run, and no file of another direction or setting beside it: such are moved aside."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import N_LAYERS, N_POSITIONS

from refusal_lightning.cli import main
from refusal_lightning.errors import UserError
from refusal_lightning.runs.folder import RunFolder
from refusal_lightning.runs.lock import held
from refusal_lightning.runs.made_from import make_room
from runs import write_config, write_data

EVALUATE = {"max_new_tokens": 3, "batch_size": 30}


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_llama_folder) -> Path:
    """A folder with a run of all three stages."""
    folder = tmp_path_factory.mktemp("run")
    data = write_data(folder / "data", train=6, val=3, test=2)
    config = write_config(
        folder, tiny_llama_folder, data, data={"n_train": 6, "n_val": 3}, cache={"batch_size": 20}, evaluate=EVALUATE
    )
    for stage in ("cache", "select", "evaluate"):
        assert main([stage, "--config", config]) == 0
    return folder


class Copy:
    """A copy of the finished run, whose stages may change it."""

    def __init__(self, finished: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        shutil.copytree(finished / "runs", folder / "runs")
        self.config, self.capsys, self.path = str(finished / "config.yaml"), capsys, folder / "runs" / "tiny"
        self._root = ["--runs.root", str(folder / "runs")]

    def __call__(self, stage: str, *more: str) -> str:
        """What a stage says."""
        self.capsys.readouterr()
        assert main([stage, "--config", self.config, *self._root, *more]) == 0
        return self.capsys.readouterr().out

    def fails(self, stage: str, *more: str) -> str:
        """The one line that it ends with."""
        self.capsys.readouterr()
        assert main([stage, "--config", self.config, *self._root, *more]) == 2
        (line,) = self.capsys.readouterr().err.strip().splitlines()
        return str(line)

    def files(self) -> dict[str, bytes]:
        """All results by name, journals and run.json apart."""
        found = (p for p in sorted(self.path.rglob("*")) if p.is_file() and ".journal" not in p.parts)
        return {str(p.relative_to(self.path)): p.read_bytes() for p in found if p.name != "run.json"}

    @property
    def record(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.path / "run.json").read_text())
        return content

    @property
    def place(self) -> tuple[int, int]:
        chosen = json.loads((self.path / "direction_metadata.json").read_text())
        return chosen["pos"], chosen["layer"]

    def other(self) -> list[str]:
        """Arguments that choose another candidate by hand."""
        position, layer = self.place
        return ["--select.position", str(position), "--select.layer", "1" if layer != 1 else "2"]


@pytest.fixture
def run(finished, tmp_path, capsys) -> Copy:
    return Copy(finished, tmp_path, capsys)


def test_two_models_of_one_alias(run, tiny_folder, finished):
    """The second is refused, both being named; or moves the first one's run aside, where it is told to."""
    before = run.files()
    model = ["--model.name", str(tiny_folder("qwen2"))]
    main(["cache", "--config", run.config, *model])
    line = run.fails("select", *model)
    assert "holds the run of another model or template" in line and "tiny-llama" in line and "tiny-qwen2" in line
    assert "weights" in line and "model.alias" in line and "runs.replace" in line
    assert run.files() == before
    said = run("select", *model, "--runs.replace", "true")
    assert f"the run of {finished}" not in said and "is now in" in said
    after = run.files()
    assert {name: after[f"stale/1/{name}"] for name in before} == before
    assert json.loads((run.path / "stale" / "1" / "run.json").read_text())["evaluate"]
    assert "evaluate" not in run.record and not any(name.startswith("completions") for name in after)


def test_another_direction_moves_the_old_ones_results(run):
    """A second select that chooses another candidate; the baseline's answers are the same under any."""
    before, chosen = run.files(), run.place
    said = run("select", *run.other())
    assert "not known to be of this model, direction and settings is now in" in said and "completions (" in said
    assert "the results of `evaluate` were an earlier direction's" in said
    assert run.place != chosen
    after = run.files()
    baseline = {name for name in before if "baseline" in name}
    assert len(baseline) == 5
    for name, content in before.items():
        assert after[name if name in baseline else f"stale/1/{name}"] == content
    assert not any(name.startswith(("completions", "loss_evals", "report")) for name in after.keys() - baseline)
    assert "evaluate" not in run.record
    told = json.loads((run.path / "stale" / "1" / "run.json").read_text())
    assert (told["select"]["selected"]["position"], told["select"]["selected"]["layer"]) == chosen
    run("evaluate")
    run("select")
    run("evaluate")  # and back: the same files, from the journal
    assert {name: content for name, content in run.files().items() if not name.startswith("stale")} == before


def test_the_same_direction_leaves_them(run):
    before = run.files()
    assert "is now in" not in run("select")
    assert run.files() == before
    said = run("select", "--select.prune_layers", "0.1")  # another rule, the same choice
    after = run.files()
    assert "is now in" in said and "completions" not in said
    assert all(after[name] == content for name, content in before.items() if name.startswith(("compl", "loss")))
    assert after["stale/1/select_direction/filter_report.txt"] == before["select_direction/filter_report.txt"]


def test_a_failed_select_moves_the_earlier_direction_aside(run):
    before = run.files()
    assert "no direction selected" in run.fails("select", "--select.kl_threshold", "-1")
    after = run.files()
    assert "direction.pt" not in after and after["stale/1/direction.pt"] == before["direction.pt"]
    assert "report.html" not in after
    assert "run `select` first" in run.fails("evaluate")
    run("select")
    run("evaluate")
    assert {name: content for name, content in run.files().items() if not name.startswith("stale")} == before


def test_fewer_interventions_and_other_settings(run):
    before = run.files()
    said = run("evaluate", "--evaluate.interventions", "[baseline, ablation]")
    assert "completions (4), loss_evals (1) of earlier runs stay" in said
    assert all(run.files()[name] == before[name] for name in before if "actadd" in name)
    said = run("evaluate", "--evaluate.interventions", "[baseline, ablation]", "--evaluate.max_new_tokens", "2")
    after = run.files()
    actadd = {name for name in before if "actadd" in name and "select_direction" not in name}
    assert len(actadd) == 5 and not actadd & after.keys()
    latest = max(int(folder.name) for folder in (run.path / "stale").iterdir())
    assert all(after[f"stale/{latest}/{name}"] == before[name] for name in actadd)


def test_a_direction_put_there_by_hand(run):
    directions = torch.load(run.path / "generate_directions" / "mean_diffs.pt", weights_only=True)
    position, layer = run.place
    layer = 1 if layer != 1 else 2
    torch.save(directions[position, layer].clone(), run.path / "direction.pt")
    (run.path / "direction_metadata.json").write_text(json.dumps({"pos": position, "layer": layer}))
    for stage in ("evaluate", "analyze"):
        line = run.fails(stage)
        assert "is not the direction that `select` chose" in line and "select.position and select.layer" in line


def test_a_candidate_chosen_by_hand(run, monkeypatch):
    """It is reported as such everywhere, with its scores and the rules that it fails."""
    place = run.other()
    said = run("select", *place, "--select.induce_threshold", "1000")
    assert "chosen by hand; the rules would drop it (induce score too low)" in said
    select = run.record["select"]
    assert (select["chosen"], select["fails"]) == ("by hand", ["induce"])
    assert [str(select["selected"][key]) for key in ("position", "layer")] == place[1::2]
    assert all(select["selected"][key] is not None for key in ("refusal_score", "steering_score", "kl_div_score"))
    assert "chosen by hand" in (run.path / "select_direction" / "filter_report.txt").read_text()
    assert not (run.path / "select_direction" / "uncertainty.json").exists()  # which is of the rules' choice
    assert "(chosen by hand; fails the rules induce)" in run("evaluate")
    assert "(chosen by hand; fails the rules induce)" in (run.path / "report.html").read_text()
    run("select")
    assert run.record["select"]["chosen"] == "by the rules"


def test_by_hand_only_that_candidate_is_scored(tmp_path, finished, tiny_llama_folder):
    """In a store of its own, where nothing is scored yet."""
    shutil.copytree(finished / "data", tmp_path / "data")
    config = write_config(
        tmp_path, tiny_llama_folder, tmp_path / "data", data={"n_train": 6, "n_val": 3}, select={"mode": "staged"}
    )
    assert main(["cache", "--config", config]) == 0
    assert main(["select", "--config", config, "--select.position", "-1", "--select.layer", "2"]) == 0
    run = tmp_path / "runs" / "tiny"
    rows = json.loads((run / "select_direction" / "direction_evaluations.json").read_text())
    scored = [(r["position"], r["layer"]) for r in rows if r["kl_div_score"] is not None]
    assert scored == [(-1, 2)]
    ours = json.loads((finished / "runs" / "tiny" / "select_direction" / "direction_evaluations.json").read_text())
    (same,) = (r for r in ours if (r["position"], r["layer"]) == (-1, 2))
    (row,) = (r for r in rows if (r["position"], r["layer"]) == (-1, 2))
    assert row == pytest.approx(same, abs=1e-5)
    report = (run / "select_direction" / "filter_report.txt").read_text()
    assert "it fails no rule" in report and "not scored, since the candidate was chosen by hand" in report


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--select.position", "-1"], "select.position, select.layer is [-1, None]; it must be both or none"),
        (["--select.position", "1", "--select.layer", "1"], "select.position is 1; it must be negative"),
        (["--select.position", str(-N_POSITIONS - 1), "--select.layer", "1"], f"has positions {-N_POSITIONS} to -1"),
        (["--select.position", "-1", "--select.layer", str(N_LAYERS)], f"layers 0 to {N_LAYERS - 1}"),
        (["--select.position", "-1", "--select.layer", "0"], "the direction there is zero"),
    ],
)
def test_no_candidate_by_hand(run, arguments, says):
    before = run.files()
    assert says in run.fails("select", *arguments)
    assert run.files() == before


def test_two_jobs_in_one_folder(run, monkeypatch):
    before = run.files()
    with held(run.path, "evaluate"):
        for stage in ("select", "evaluate"):
            assert "is in use by `evaluate`, process" in run.fails(stage)
    with held(run.path, "select"):
        for stage in ("select", "evaluate", "analyze"):
            assert "is in use by `select`, process" in run.fails(stage)
    assert run.files() == before


def test_two_stages_that_end_together_both_stand(tmp_path):
    run = RunFolder(tmp_path, "x")
    run.prepare()
    stages = [f"stage{i}" for i in range(6)]
    threads = [threading.Thread(target=run.record_stage, args=(stage, {"of": stage}, 1.0)) for stage in stages]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {stage: run.read_record()[stage]["of"] for stage in stages} == {stage: stage for stage in stages}


@pytest.mark.parametrize("content", ["", '{"select": {', "[]"])
def test_a_damaged_record_is_said_and_never_replaced(tmp_path, content):
    run = RunFolder(tmp_path, "x")
    run.prepare()
    run.record.write_text(content)
    with pytest.raises(UserError, match="it says what made the other files, so put a copy back"):
        run.record_stage("evaluate", {}, 1.0)
    assert run.record.read_text() == content


def test_a_run_of_an_earlier_version(run, monkeypatch):
    """Its record does not bind files: the direction is understood, and other results are moved aside and made again."""
    before, record = run.files(), run.record
    for key in ("made_from", "chosen", "fails", "direction"):
        del record["select"][key]
    del record["files"], record["evaluate"]["direction"]
    (run.path / "run.json").write_text(json.dumps(record))
    monkeypatch.setattr(
        "refusal_lightning.models.weights.Weights.engine", lambda *_: pytest.fail("the model was loaded")
    )
    assert "is now in" in run("evaluate")
    assert {name: content for name, content in run.files().items() if name.startswith("compl")} == {
        name: content for name, content in before.items() if name.startswith("compl")
    }


def test_a_file_that_was_changed_by_hand_is_kept_aside(run):
    path = run.path / "completions" / "harmful_test_ablation_completions.json"
    path.write_text("[]")
    assert "is now in" in run("evaluate")
    assert (run.path / "stale" / "1" / path.relative_to(run.path)).read_text() == "[]"
    assert len(json.loads(path.read_text())) == 2


def test_a_killed_stage_finds_its_own_files(tmp_path):
    """What was written before the record was is its own when it goes on; what another setting left is not."""
    run = RunFolder(tmp_path, "x")
    run.prepare()
    path = run.loss_eval("ablation")
    make_room(run, "evaluate", {path: {"a": (1, 2)}}, lambda *_: False)
    path.parent.mkdir()
    path.write_text("half of the stage")
    make_room(run, "evaluate", {path: {"a": (1, 2)}}, lambda *_: False)
    assert path.exists()
    make_room(run, "evaluate", {path: {"a": (1, 3)}}, lambda *_: False)
    assert not path.exists() and (run.path / "stale" / "1" / "loss_evals").is_dir()


def test_every_file_is_bound(run):
    """To its stage, what it was made from, and its content."""
    files = run.record["files"]
    assert files.keys() == run.files().keys()
    assert all(len(about["sha256"]) == 64 and about["made_from"]["model"] for about in files.values())
    evaluations = json.loads((run.path / "completions" / "harmful_test_ablation_evaluations.json").read_text())
    assert evaluations["made_from"] == files["completions/harmful_test_ablation_evaluations.json"]["made_from"]
    assert evaluations["made_from"]["direction"] == run.record["select"]["direction"]


def test_a_staged_table_chosen_from_under_looser_thresholds(tmp_path, finished, tiny_llama_folder, capsys):
    """Refused, and no other candidate chosen in silence; a copy of the table alone gets a warning."""
    ours = json.loads((finished / "runs" / "tiny" / "select_direction" / "direction_evaluations.json").read_text())
    kl = sorted(r["kl_div_score"] for r in ours if r["layer"] in (1, 2))
    rules = {"mode": "staged", "kl_threshold": (kl[1] + kl[2]) / 2}
    shutil.copytree(finished / "data", tmp_path / "data")
    config = write_config(tmp_path, tiny_llama_folder, tmp_path / "data", data={"n_train": 6, "n_val": 3}, select=rules)
    assert main(["cache", "--config", config]) == 0
    assert main(["select", "--config", config]) == 0
    table = tmp_path / "runs" / "tiny" / "select_direction" / "direction_evaluations.json"
    capsys.readouterr()
    arguments = ["select", "--config", config, "--json", "--from-scores"]
    assert main([*arguments, str(table)]) == 0
    out = capsys.readouterr().out
    assert "warning" not in out
    again = json.loads(out.splitlines()[-1])
    assert again | json.loads((tmp_path / "runs" / "tiny" / "direction_metadata.json").read_text()) == again
    assert main([*arguments, str(table), "--select.kl_threshold", "1000"]) == 2
    assert "was scored for other thresholds" in capsys.readouterr().err
    alone = tmp_path / "copy.json"
    shutil.copy(table, alone)
    assert main([*arguments, str(alone), "--select.kl_threshold", "1000"]) == 0
    assert "warning: " in capsys.readouterr().out


def test_a_plot_put_there_by_hand_is_not_in_the_report(run):
    plot = run.path / "select_direction" / "kl_div_scores.png"
    before = (run.path / "report.html").read_text()
    plot.write_bytes(plot.read_bytes() + b"by hand")
    run("evaluate")
    after = (run.path / "report.html").read_text()
    assert before.count("<figure>") == 3 and after.count("<figure>") == 2
