"""`init` writes what the first stage runs on, and overwrites nothing."""

from __future__ import annotations

from dataclasses import fields

import pytest
import yaml

from refusal_lightning.cli import main
from refusal_lightning.cli.schema import documentation, schema_text
from refusal_lightning.cli.sections import SECTIONS
from refusal_lightning.config import DataConfig
from refusal_lightning.inputs.drawing import draw


def _lines_of_comments(text: str) -> str:
    return " ".join(line.strip(" #") for line in text.splitlines() if line.strip().startswith("#"))


def test_the_first_stage_runs_on_what_it_writes(tmp_path, monkeypatch, capsys, tiny_llama_folder):
    monkeypatch.chdir(tmp_path)
    assert main(["init", "mine"]) == 0
    said = capsys.readouterr().out
    assert said.endswith("next: cd mine && python -m refusal_lightning run --config config.yaml\n")
    monkeypatch.chdir(tmp_path / "mine")
    small = ["--model.name", str(tiny_llama_folder), "--data.n_train", "4", "--data.n_val", "2"]
    assert main(["cache", "--config", "config.yaml", *small, "--trainer.progress_bar", "false"]) == 0
    assert list((tmp_path / "mine" / "activation_store").glob("*.zarr"))


def test_every_value_is_explained_by_the_words_of_its_dataclass(tmp_path):
    assert main(["init", str(tmp_path)]) == 0
    text = (tmp_path / "config.yaml").read_text()
    assert (tmp_path / "config.schema.json").read_text() == schema_text()
    assert text.startswith("# yaml-language-server: $schema=config.schema.json\n")
    said = _lines_of_comments(text)
    content = yaml.safe_load(text)
    assert {"model", "data", "select", "evaluate"} <= set(content)
    for section, values in content.items():
        about, texts = documentation(SECTIONS[section])
        assert about in said
        assert set(values) <= {field.name for field in fields(SECTIONS[section])}
        for key in values:
            assert texts[key] in said, f"{section}.{key}"


def test_there_are_as_many_prompts_as_it_asks_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["init"]) == 0
    data = DataConfig(**yaml.safe_load((tmp_path / "config.yaml").read_text())["data"])
    assert len(draw(data).harmful_train) == data.n_train == 96


@pytest.mark.parametrize("name", ["config.yaml", "prompts/splits/harmless_val.json", "config.schema.json"])
def test_nothing_is_overwritten(tmp_path, capsys, name):
    mine = tmp_path / name
    mine.parent.mkdir(parents=True, exist_ok=True)
    mine.write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    assert main(["init", str(tmp_path)]) == 2
    assert f"{mine} is there already" in capsys.readouterr().err
    assert mine.read_text() == "mine" and sorted(tmp_path.rglob("*")) == before
