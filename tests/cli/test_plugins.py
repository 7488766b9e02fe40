"""Plugins: files of the user's own, named on the command line, whose entries configurations may name."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from nodes import ROOT, finish, start_nodes

from refusal_lightning import plugins
from refusal_lightning.cli import main
from refusal_lightning.errors import UserError
from refusal_lightning.registry import Registry
from runs import write_config, write_data

JUDGE = """
from dataclasses import dataclass
from refusal_lightning.judges.registry import JUDGES
from refusal_lightning.judges.spec import JudgeSpec
from refusal_lightning.judges.verdict import Verdict

@dataclass(frozen=True)
class Long:
    name: str = "{name}"
    measures: str = "refusal"
    def __call__(self, pairs, answers):
        return [Verdict(len(response) > {longest}, "") for _, response in pairs]
    def check(self):
        pass

JUDGES.register("{name}", JudgeSpec(lambda settings, load_local: Long()))
"""


def write_judge(path: Path, name: str = "long", longest: str = "3") -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(JUDGE.format(name=name, longest=longest))
    return path


def program(*argv: str | Path) -> subprocess.CompletedProcess[str]:
    """The command line as users start it, in a process of its own."""
    command = [sys.executable, "-m", "refusal_lightning", *map(str, argv)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture
def completions(tmp_path) -> Path:
    path = tmp_path / "completions.json"
    path.write_text(json.dumps([{"category": None, "prompt": "Name a colour.", "response": "Blue is one."}]))
    return path


def test_several_plugins_anywhere_on_the_command_line(tmp_path, completions):
    one, two = write_judge(tmp_path / "one.py", "one"), write_judge(tmp_path / "two.py", "two", "99")
    out = tmp_path / "out.json"
    done = program(
        "--plugins", one, "judge", "--completions", completions, "--out", out,
        f"--plugins={two}", "--judges", "[one, two]",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    evaluation = json.loads(out.read_text())
    (row,) = evaluation["completions"]
    assert (row["is_jailbreak_one"], row["is_jailbreak_two"]) == (1, 0)
    assert evaluation["plugins"] == [
        {"name": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "adds": [f"judge {path.stem}"]}
        for path in (one, two)
    ]


BROKEN: dict[str, tuple[str | bytes, str]] = {
    "syntax": ("x = 1\n\ndef broken(:\n", "line 3: SyntaxError: "),
    "error": ("x = 1\nundefined_name\n", "line 2: NameError: name 'undefined_name' is not defined"),
    "within": ("def f():\n    return 1 / 0\n\nf()\n", "line 2: ZeroDivisionError: division by zero"),
    "import": ("import no_such_package\n", "line 1: ModuleNotFoundError: "),
    "exit": ("import sys\nsys.exit(0)\n", "line 2: SystemExit: 0"),
    "taken": (JUDGE.format(name="substring", longest=3), "line 16: there is a judge 'substring' already"),
    "nothing": ("x = 1\n", "adds nothing; a plugin adds entries to registries"),
    "null": ("x = '\0'\n", "SyntaxError: "),
    "latin": (b"x = '\xe9'\n", "line 1: SyntaxError: "),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_plugin_is_told_by_file_and_line(kind, tmp_path, capsys):
    text, said = BROKEN[kind]
    file = tmp_path / "mine.py"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    before = plugins.record()
    assert main(["store", "info", str(tmp_path), "--plugins", str(file)]) == 2
    message = capsys.readouterr().err
    assert len(message.splitlines()) == 1
    assert str(file) in message
    assert said in message
    assert plugins.record() == before


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--plugins", "nowhere.py"], "--plugins: there is no file 'nowhere.py'"),
        (["--plugins", "."], "--plugins: '.' cannot be read"),
        (["--plugins"], "--plugins needs the name of a Python file"),
        (["--plugins="], "--plugins needs the name of a Python file"),
        (["--plugins", "--judges"], "--plugins needs the name of a Python file"),
    ],
)
def test_a_plugin_that_is_not_there(argv, said, capsys):
    assert main(["judge", *argv]) == 2
    assert said in capsys.readouterr().err


def test_an_error_in_the_middle_of_the_work(tmp_path, completions):
    plugin = write_judge(tmp_path / "mine.py", "long", "undefined_name")
    done = program(
        "judge", "--plugins", plugin, "--completions", completions, "--out", tmp_path / "out.json", "--judges", "[long]"
    )  # fmt: skip
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert f"{plugin}, line 12: NameError: name 'undefined_name' is not defined; mend the plugin" in line


def test_what_no_plugin_added_is_said_with_the_way_to_add_it(completions, tmp_path, capsys):
    assert main(["judge", "--completions", str(completions), "--out", str(tmp_path / "o"), "--judges", "[long]"]) == 2
    assert "there is no judge 'long'; there are substring, " in (message := capsys.readouterr().err)
    assert "(--plugins FILE adds your own)" in message


def test_a_plugin_is_executed_once(tmp_path, monkeypatch):
    monkeypatch.setattr(plugins, "_loaded", [])
    numbers: Registry[int] = Registry("number", {"one": 1})
    file = tmp_path / "twice.py"
    file.write_text(
        "from refusal_lightning.plugins import loading\nloading().adds.append('number two')\n"
        "def typed(x: int): ...\nassert typed.__annotations__['x'] is int, 'annotations as in any file'\n"
    )
    plugins.load_plugins([file, str(file)])
    plugins.load_plugins([file])
    assert [one["adds"] for one in plugins.record()] == [["number two"]]
    with pytest.raises(UserError, match="there is a number 'one' already"):
        numbers.register("one", 2)
    assert numbers.origin("one") == {}


# What follows runs stages on a tiny model.


@pytest.fixture(scope="module")
def selected(tmp_path_factory, tiny_llama_folder) -> tuple[Path, str]:
    """A folder with a selected direction, and its configuration, which names a judge of a plugin."""
    folder = tmp_path_factory.mktemp("selected")
    data = write_data(folder / "data", train=6, val=3, test=2)
    evaluate = {"max_new_tokens": 2, "losses": [], "judges": ["substring", "long"]}
    sizes = {"root": str(data), "n_train": 4, "n_val": 2}
    config = write_config(folder, tiny_llama_folder, data, data=sizes, evaluate=evaluate)
    for stage in ("cache", "select"):
        assert main([stage, "--config", config]) == 0
    return folder, config


def test_what_a_run_says_of_its_plugins(selected, tmp_path):
    """In run.json, in what evaluations are made from, and aloud where the plugin has changed since. Lightning's other
    processes load it too."""
    folder, config = selected
    run = folder / "runs" / "tiny"
    plugin = write_judge(tmp_path / "mine.py", longest="0")
    first = program("evaluate", "--config", config, "--plugins", plugin, "--trainer.devices", "2")
    assert first.returncode == 0, first.stderr
    record = json.loads((run / "run.json").read_text())
    sha256 = hashlib.sha256(plugin.read_bytes()).hexdigest()
    assert record["evaluate"]["plugins"] == [{"name": "mine.py", "sha256": sha256, "adds": ["judge long"]}]
    assert "plugins" not in record["select"]
    path = run / "completions" / "harmful_test_baseline_evaluations.json"
    made_from = json.loads(path.read_text())["made_from"]["judges"]
    assert made_from["long"] == {"paper": False, "plugin": "mine.py", "sha256": sha256}
    assert made_from["substring"] == {"paper": False}

    write_judge(plugin, longest="1000")
    changed = program("evaluate", "--config", config, "--plugins", plugin)
    assert changed.returncode == 0, changed.stderr
    (said,) = [line for line in changed.stdout.splitlines() if "has changed" in line]
    assert said.startswith(f"warning: evaluate: {plugin} has changed (sha256 ")
    assert sha256[:12] in said
    assert "long" in json.loads((run / "stale" / "1" / path.relative_to(run)).read_text())["made_from"]["judges"]
    assert json.loads(path.read_text())["long_success_rate"] == 0


def test_processes_with_other_plugins_are_told_so(selected, tmp_path):
    _, config = selected
    for node, longest in enumerate("12"):
        write_judge(tmp_path / f"node{node}" / "mine.py", longest=longest)
    changes = [{"FOLDER": str(tmp_path / f"node{node}")} for node in range(2)]
    ended = finish(start_nodes("evaluate", config, "--plugins", "mine.py", changes=changes))
    assert [status for status, _ in ended] == [2, 2]
    (line,) = [line for _, errors in ended for line in errors.splitlines() if line.startswith("refusal_lightning:")]
    assert "the processes of this run differ: plugins is mine.py (sha256 " in line


OF_EVERY_KIND = """
import numpy as np
from refusal_lightning.data.loss_sets import LOSS_SETS, LossSet
from refusal_lightning.data.texts import Text
from refusal_lightning.directions.estimators.registry import ESTIMATORS
from refusal_lightning.directions.estimators.spec import EstimatorSpec
from refusal_lightning.interventions.intervention import KeyedIntervention, addition
from refusal_lightning.interventions.registry import INTERVENTIONS, InterventionSpec
from refusal_lightning.models.families import FAMILIES, Family
from refusal_lightning.report.figures.analyses import AnalysisTable
from refusal_lightning.report.figures.canvas import new_figure
from refusal_lightning.report.figures.registry import FIGURES, FigureSpec
from refusal_lightning.stages.analyze.analysis import Analysis
from refusal_lightning.stages.analyze.registry import ANALYSES, AnalysisSpec

def medians(harmful, harmless):
    return np.median(harmful, axis=0).astype(float) - np.median(harmless, axis=0)

def twice(direction, layer, role):
    return KeyedIntervention(addition(direction, layer, 2.0), [layer])

def norms(m):
    norm = np.linalg.norm(m.directions, axis=-1)
    return Analysis("norms", [{"position": p, "layer": i, "norm": norm[p, i]} for p in m.positions for i in m.layers])

def drawn(table):
    figure = new_figure(2, 2)
    figure.subplots().plot([row["norm"] for row in table.rows])
    return figure

ESTIMATORS.register("medians", EstimatorSpec("difference of medians", medians))
INTERVENTIONS.register("twice", InterventionSpec("added twice", twice))
LOSS_SETS.register("colours", LossSet("colours", lambda request: [Text("Blue is a colour that many people like.")]))
FAMILIES.register("mine", Family("mine", None, "Q: {instruction} A: ", None, (2,), refusal_words=()))
ANALYSES.register("norms", AnalysisSpec(norms, "norms"))
FIGURES.register("norms", FigureSpec(drawn, AnalysisTable, "Norms."))
"""


def test_entries_of_every_kind(tmp_path, tiny_llama_folder, capsys):
    """One file with an estimator, an intervention, texts, a family, an analysis and its figure, through the stages."""
    data = write_data(tmp_path / "data", train=6, val=3, test=2)
    config = write_config(
        tmp_path,
        tiny_llama_folder,
        data,
        model={"name": str(tiny_llama_folder), "alias": "tiny", "refusal_tokens": ["I"], "family": "mine"},
        data={"root": str(data), "n_train": 4, "n_val": 2},
        select={"position": -1, "layer": 1, "estimators": ["medians"]},
        evaluate={"max_new_tokens": 2, "interventions": ["baseline", "twice"], "losses": ["colours"]},
        analyze={"analyses": ["norms"]},
    )
    plugin = tmp_path / "mine.py"
    plugin.write_text(OF_EVERY_KIND)
    for stage in ("cache", "select", "evaluate", "analyze"):
        done = program(stage, "--config", config, "--plugins", plugin)
        assert done.returncode == 0, done.stderr
    run = tmp_path / "runs" / "tiny"
    record = json.loads((run / "run.json").read_text())
    kinds = ["estimator medians", "intervention twice", "set of texts colours", "model family mine", "analysis norms"]
    for stage in ("select", "evaluate", "analyze"):
        assert record[stage]["plugins"][0]["adds"] == [*kinds, "figure norms"]
    losses = [json.loads((run / "loss_evals" / f"{name}_loss_eval.json").read_text()) for name in ("baseline", "twice")]
    assert losses[0]["colours"]["ce_loss"] != losses[1]["colours"]["ce_loss"]
    assert (run / "analysis" / "norms.png").read_bytes().startswith(b"\x89PNG")
    assert main(["analyze", "--config", config]) == 2
    captured = capsys.readouterr()
    assert "select.estimators: there is no estimator 'medians'; there are mean_difference, " in captured.err
    assert "warning: evaluate.interventions: there is no intervention 'twice'; there are " in captured.out
    unknown = 'ANALYSES.register("norms", AnalysisSpec(norms, "norms"))\nFIGURES'
    assert unknown in OF_EVERY_KIND
    plugin.write_text(OF_EVERY_KIND.replace('AnalysisSpec(norms, "norms")', 'AnalysisSpec(norms, "nroms")'))
    done = program("analyze", "--config", config, "--plugins", plugin)
    assert done.returncode == 2 and "the analysis norms: there is no figure 'nroms'; there are" in done.stderr
    config = write_config(tmp_path, tiny_llama_folder, data, analyze={"analyses": ["norms"]})
    assert main(["analyze", "--config", config]) == 2
    assert "analyze.analyses: there is no analysis 'norms'; there are separability, " in capsys.readouterr().err
