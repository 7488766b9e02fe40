"""Users' own prompts through the stages: other labels, columns and places give what the paper's names give."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from refusal_lightning.cli import main
from refusal_lightning.config import DataConfig, EvaluateConfig, SetConfig
from refusal_lightning.errors import UserError
from refusal_lightning.inputs.drawing import draw
from refusal_lightning.inputs.evaluation_sets import evaluation_sets
from refusal_lightning.inputs.instructions import plain_name, rows_of
from refusal_lightning.inputs.prompt_warnings import far_longer, repeated
from refusal_lightning.inputs.prompts import PromptSet
from refusal_lightning.models import load_chat_model
from refusal_lightning.stages.evaluate.stage import _counts
from refusal_lightning.store import ActivationStore
from runs import write_config, write_data

OWN = {"harmful": "flattery", "harmless": "honest"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def own(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same prompts as CSV files with columns of other names; the test splits are elsewhere, by other names."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "splits").mkdir()
    for path in (data / "splits").glob("*.json"):
        label, split = path.stem.split("_")
        name = f"{OWN[label]}_{split}"
        target = folder / (f"my {name}.csv" if split == "test" else f"splits/{name}.csv")
        with target.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["prompt", "topic"])
            writer.writerows([row["instruction"], row["category"]] for row in json.loads(path.read_text()))
    return folder


@pytest.fixture(scope="module")
def runs(data: Path, own: Path, tiny_llama_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {}
    tests = {f"{label}_test": str(own / f"my {label}_test.csv") for label in OWN.values()}
    changes: dict[str, dict] = {
        "papers": {},
        "own": {
            "root": str(own),
            "labels": list(OWN.values()),
            "columns": {"instruction": "prompt", "category": "topic"},
            "sets": tests,
        },
    }
    for name, change in changes.items():
        folders[name] = tmp_path_factory.mktemp(name)
        config = write_config(folders[name], tiny_llama_folder, data, data=change)
        for stage in ("cache", "select", "evaluate"):
            extra = ["--select.estimators", '["category_means"]'] if stage == "select" else []
            assert main([stage, "--config", config, *extra]) == 0
    return folders


def test_other_names_give_the_same_numbers(runs: dict[str, Path]):
    papers, own = (folder / "runs" / "tiny" for folder in runs.values())
    for path in (
        "generate_directions/mean_diffs.pt",
        "select_direction/direction_evaluations.json",
        "select_direction/uncertainty.json",
        "direction.pt",
        "loss_evals/ablation_loss_eval.json",
    ):
        assert (papers / path).read_bytes() == (own / path).read_bytes()
    for label, name in OWN.items():
        for intervention in ("baseline", "ablation", "actadd"):
            names = ((papers, label), (own, name))
            files = (f / "completions" / f"{n}_test_{intervention}_completions.json" for f, n in names)
            first, second = (path.read_bytes() for path in files)
            assert first == second


def test_the_store_and_the_record_have_the_users_names(runs: dict[str, Path]):
    (url,) = (runs["own"] / "store").glob("*.zarr")
    prompts = ActivationStore.open(url).prompts
    assert set(zip(prompts.label, prompts.split, strict=True)) == {
        (la, s) for la in OWN.values() for s in ("train", "val")
    }
    record = json.loads((runs["own"] / "runs" / "tiny" / "run.json").read_text())
    assert set(record["select"]["prompts"]) == {f"{la}_{s}" for la in OWN.values() for s in ("train", "val")}
    assert record["evaluate"]["harmful"] == ["flattery_test"]


def test_two_sets_of_one_name_are_refused(runs, own, tiny_llama_folder, data, capsys):
    file = str(own / "my honest_test.csv")
    twice = {"harmless": [file, file.replace("my", "./my")]}
    config = write_config(runs["papers"], tiny_llama_folder, data, evaluate=twice)
    columns = ["--data.sets", json.dumps({file: "x"})]
    assert main(["evaluate", "--config", config, *columns]) == 2
    assert "data.sets is" in capsys.readouterr().err


def test_a_set_with_columns_and_rows_of_its_own(data, tmp_path):
    path = tmp_path / "all.csv"
    rows = [["prompt", "kind"], *([f"{kind} {i}", kind] for i in range(4) for kind in ("good", "bad"))]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    own = SetConfig(str(path), {"instruction": "prompt"}, {"kind": "bad"})
    config = DataConfig(
        str(data), n_train=3, n_val=2, sets={"harmful_train": own, "over": str(data / "splits" / "harmless_val.json")}
    )
    assert [row["instruction"] for row in rows_of("harmful_train", config)] == [f"bad {i}" for i in range(4)]
    assert rows_of("over", config) == rows_of("harmless_val", config)
    assert set(draw(config).harmful_train) < {f"bad {i}" for i in range(4)}


def test_prompts_that_come_more_than_once_are_counted_and_not_shown():
    sets = {
        role: PromptSet(name, hashes, [[1]] * len(hashes), hashes)
        for role, name, hashes in (
            ("harmful_train", "rude_train", ["a", "b", "a", "a"]),
            ("harmless_train", "polite_train", ["x", "y"]),
            ("harmful_val", "rude_val", ["b", "a", "c"]),
        )
    }
    assert repeated(sets) == [
        "2 of the 4 prompts drawn of rude_train repeat another of them and count again",
        "2 of the prompts drawn are in both rude_train and rude_val; each should be in one set",
    ]


def test_cache_warns_of_prompts_that_come_more_than_once(data, tiny_llama_folder, tmp_path, capsys):
    same = {"harmful_val": str(data / "splits" / "harmless_val.json")}
    config = write_config(tmp_path, tiny_llama_folder, data, data={"root": str(data), "n_val": 6, "sets": same})
    assert main(["cache", "--config", config]) == 0
    assert "warning: 6 of the prompts drawn are in both harmful_val and harmless_val" in capsys.readouterr().out


def test_test_prompts_that_are_drawn_are_warned_of(own, tiny_llama_folder, data, tmp_path, capsys, caplog):
    """Of whatever set they are evaluated on; `cache` says it before `select` uses them."""
    everything = tmp_path / "all.json"
    rows = [row for split in ("train", "val", "test") for row in rows_of(f"harmful_{split}", DataConfig(str(data)))]
    everything.write_text(json.dumps(rows))
    sets: dict[str, str | SetConfig] = {"harmful_test": str(everything)}
    change = {"n_train": 8, "n_val": 4, "sets": sets}
    config = write_config(tmp_path, tiny_llama_folder, data, data=change)
    says = f"of the {len(rows)} prompts of harmful_test the direction is made and chosen with 8 in harmful_train, 4 in"
    assert main(["cache", "--config", config]) == 0
    assert f"warning: {says}" in capsys.readouterr().out
    chat = load_chat_model(str(tiny_llama_folder), refusal_tokens=["I"])
    settings = DataConfig(str(data), n_train=8, n_val=4, sets=sets)
    caplog.clear()
    evaluation_sets(chat, settings, EvaluateConfig(harmless=[]))
    assert f"{says} harmful_val; what is measured on them is no test" in caplog.text
    caplog.clear()
    evaluation_sets(chat, DataConfig(str(data), n_train=8, n_val=4), EvaluateConfig())
    assert not caplog.text


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("harmful_test", "harmful_test"),
        ("../../etc/pass wd.csv", "pass-wd"),
        ("hub:org/name@abc:config:test", "org-name-abc-config-test"),
        ("hub:Paul/XSTest", "Paul-XSTest"),
        ("..", "set"),
        ("a/b<script>.json", "b-script"),
    ],
)
def test_a_sets_name_in_a_files_name(name, expected):
    assert plain_name(name) == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": ["a"]}, "data.labels"),
        ({"labels": ["a", "a"]}, "data.labels"),
        ({"labels": ["a", "../b"]}, "data.labels"),
        ({"columns": {"text": "x"}}, "data.columns"),
        ({"sets": {"a/b": "x.csv"}}, "data.sets"),
        ({"sets": {"harmful_train": {"source": "a.csv", "where": {"k": [1]}}}}, "data.sets is"),
        ({"sets": {"harmful_train": "nowhere.csv"}}, "dataset file nowhere.csv does not exist"),
    ],
)
def test_mistakes_are_named(change, message, tiny_llama_folder, data, tmp_path, capsys):
    assert main(["cache", "--config", write_config(tmp_path, tiny_llama_folder, data, data=change)]) == 2
    assert message in capsys.readouterr().err


def test_a_set_that_is_not_there_names_those_that_are():
    data = DataConfig(labels=["sea", "mountain"], sets={"sea_train": "sea.csv", "mountain_train": "hills.csv"})
    for name in ("montain_train", "sea_val"):
        with pytest.raises(UserError, match=r"your data\.sets has sea_train, mountain_train; did you mean \w+_train\?"):
            rows_of(name, data)


def test_the_test_sets_alone_need_no_training_prompts(tiny_llama_folder, tmp_path):
    """Only where some of a set are drawn, after the training prompts, are these needed."""
    chat = load_chat_model(str(tiny_llama_folder), refusal_tokens=["I"])
    data = DataConfig(root=str(write_data(tmp_path / "data", train=6, val=2)), n_train=128)
    sets = evaluation_sets(chat, data, EvaluateConfig(n_test=100))
    assert _counts(sets, 100).endswith("_test (all there are); evaluate.n_test is 100")
    assert "n_test" not in _counts(sets, None)
    with pytest.raises(UserError, match=r"data\.n_train is 128"):
        evaluation_sets(chat, data, EvaluateConfig(n_test=1))


def test_a_prompt_far_longer_than_the_others():
    def of(lengths: list[int]) -> PromptSet:
        return PromptSet("sea_train", [""] * len(lengths), [[0] * n for n in lengths], [""] * len(lengths))

    (line,) = far_longer([of([15, 16, 5000, 14]), of([900, 1000, 5000]), of([3, 4, 100]), of([])])
    assert line.startswith("the longest prompt of sea_train has 5000 tokens, and half of them have at most 16")
