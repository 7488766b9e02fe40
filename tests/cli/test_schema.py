"""The schema of the configuration file says what the parser says."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from nodes import ROOT

from refusal_lightning.cli import main
from refusal_lightning.cli.parsing import parse
from refusal_lightning.cli.schema import schema, schema_text
from refusal_lightning.cli.sections import SECTIONS
from refusal_lightning.errors import UserError

CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
VALIDATOR = jsonschema.Draft7Validator(schema())


def test_the_file_is_what_would_be_written_now():
    now = (ROOT / "configs" / "schema.json").read_text(encoding="utf-8")
    assert now == schema_text(), "run `python -m refusal_lightning schema > configs/schema.json`"


def test_it_is_a_schema_and_explains_every_key():
    jsonschema.Draft7Validator.check_schema(schema())
    for section, of in schema()["properties"].items():
        assert of["description"]
        assert set(of["properties"]) == {field.name for field in dataclasses.fields(SECTIONS[section])}
        assert [key for key, one in of["properties"].items() if len(one["description"].split()) < 3] == []


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_shipped_configurations_are_valid(path):
    VALIDATOR.validate(yaml.safe_load(path.read_text(encoding="utf-8")))


def test_the_defaults_are_valid():
    """Of sections that have all."""
    VALIDATOR.validate(json.loads(json.dumps({name: dataclasses.asdict(cls()) for name, cls in SECTIONS.items()})))


GOOD: list[dict[str, Any]] = [
    {},
    {"model": None},
    {"data": {"sets": {"a": "own.csv", "b": {"source": "own.csv", "where": {"kind": 1}}}}},
    {"model": {"refusal_tokens": ["I", 40]}},
    {"model": {"refusal_tokens": "auto"}},
    {"model": {"device_map": {"lm_head": 0, "model": 1}}},
    {"trainer": {"devices": "auto", "timeout_minutes": 3}},
    {"cache": {"positions": 4, "hook_points": ["mlp_out"]}},
    {"evaluate": {"sampling": {"top_p": 0.9}}},
]
WRONG: list[dict[str, Any]] = [
    {"modle": {"name": "x"}},
    {"model": {"dtpye": "float16"}},
    {"model": {"dtype": "fp16"}},
    {"model": {"refusal_tokens": "I"}},
    {"model": {"name": 3}},
    {"data": {"n_train": "many"}},
    {"data": {"n_train": 1.5}},
    {"data": {"sets": {"a": {"where": {"kind": 1}}}}},
    {"data": {"sets": {"a": {"source": "own.csv", "were": {"kind": 1}}}}},
    {"cache": {"hook_points": ["resid"]}},
    {"cache": []},
    {"evaluate": {"judges": "substring"}},
    {"trainer": {"progress_bar": "maybe"}},
]


def _accepted(content: dict[str, Any], folder: Path) -> bool:
    """Whether the parser takes it."""
    (folder / "config.yaml").write_text(yaml.safe_dump(content))
    try:
        parse("cache", ["--config", str(folder / "config.yaml")])
    except UserError:
        return False
    return True


@pytest.mark.parametrize("content", GOOD, ids=str)
def test_what_the_parser_takes(content, tmp_path):
    assert _accepted(content, tmp_path)
    VALIDATOR.validate(content)


@pytest.mark.parametrize("content", WRONG, ids=str)
def test_what_the_parser_refuses(content, tmp_path):
    assert not _accepted(content, tmp_path)
    with pytest.raises(jsonschema.ValidationError):
        VALIDATOR.validate(content)


def test_the_command_prints_it(capsys):
    assert main(["schema"]) == 0
    assert capsys.readouterr().out == schema_text()
