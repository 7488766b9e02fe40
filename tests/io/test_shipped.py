"""What travels with the package is found from any folder, and a file of the user's own goes before it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from refusal_lightning.cli import main
from refusal_lightning.config import CapabilityConfig, DataConfig
from refusal_lightning.data import load_dataset, load_dataset_split
from refusal_lightning.data.loss_sets import load_texts
from refusal_lightning.inputs.instructions import is_at_hand
from refusal_lightning.io import shipped
from refusal_lightning.io.shipped import ROOT, configuration, configurations, locate

TEXTS = "dataset/sample/texts/everyday.json"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_sample_data_from_another_folder():
    assert locate(TEXTS) == ROOT / TEXTS
    assert len(load_dataset_split("harmless", "test", True, root="dataset/sample")) == 48
    assert len(load_dataset("harmful_val", True, root="dataset/sample")) == 36
    assert len(load_dataset("dataset/sample/splits/harmful_val.json", True)) == 36
    assert len(load_texts(TEXTS, 5, "dataset/sample")) == 5
    assert is_at_hand("harmful_train", DataConfig())
    assert is_at_hand("mine", DataConfig(sets={"mine": "dataset/sample/splits/harmful_val.json"}))


def test_what_is_there_goes_first(elsewhere):
    (elsewhere / "dataset/sample/splits").mkdir(parents=True)
    (elsewhere / "dataset/sample/splits/harmful_val.json").write_text(json.dumps([{"instruction": "One?"}]))
    assert load_dataset("harmful_val", True, root="dataset/sample") == ["One?"]
    assert locate("dataset/sample") == Path("dataset/sample")


@pytest.mark.parametrize("path", ["dataset/sample/nowhere.json", "sample/texts", "configs/demo.yaml", "~/x", "/x"])
def test_other_paths_stay(path):
    assert locate(path) == Path(path)


def test_a_wheel_has_them_inside_the_package(elsewhere, monkeypatch):
    monkeypatch.setattr(shipped, "ROOT", elsewhere / "shipped")
    (elsewhere / "shipped/configs").mkdir(parents=True)
    (elsewhere / "shipped/configs/mine.yaml").touch()
    assert configurations() == ["mine"]
    assert configuration("mine") == configuration("configs/mine.yaml") == elsewhere / "shipped/configs/mine.yaml"


def test_configurations_by_name(capsys, elsewhere):
    assert {"demo", "local"} <= set(configurations())
    for name in ("demo", "demo.yaml", "configs/demo.yaml"):
        assert configuration(name) == ROOT / "configs/demo.yaml"
        for given in (["--config", name], [f"--config={name}"]):
            with pytest.raises(SystemExit):
                main(["cache", *given, "--print_config"])
            assert "alias: smollm2-135m-refuses" in capsys.readouterr().out
    (elsewhere / "demo.yaml").write_text("model: {alias: of-this-folder}")
    with pytest.raises(SystemExit):
        main(["cache", "--config", "demo.yaml", "--print_config"])
    assert "alias: of-this-folder" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["demi", "../configs/demo", "other/demo.yaml", "", "demo.yml"])
def test_an_unknown_configuration(capsys, name):
    assert main(["cache", "--config", name]) == 2
    said = capsys.readouterr().err
    assert f"configuration file {name!r} does not exist" in said and "demo, gemma-2b-it, " in said


def test_the_shipped_task_from_another_folder():
    pytest.importorskip("lm_eval.tasks", reason="needs the extra `capability`")
    from lm_eval.tasks import get_task_dict

    from refusal_lightning.stages.capability.harness import open_tasks
    from refusal_lightning.stages.capability.inputs import _own_files
    from refusal_lightning.stages.capability.own_tasks import alone

    tasks = open_tasks(CapabilityConfig())
    with alone(trust=False):
        task = get_task_dict(["everyday_facts"], tasks)["everyday_facts"]
    assert len(list(task.test_docs())) == 20
    assert _own_files(CapabilityConfig()) == _own_files(
        CapabilityConfig(include_path=str(ROOT / "dataset/sample/tasks"))
    )
