"""Reading config.json without the architecture's class says the same as with it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import pytest
from tiny_models import ARCHITECTURES

from refusal_lightning.models import load_chat_model, pretrained
from refusal_lightning.models.config_file import plain_config


def _facts(folder: Path) -> dict:
    chat = load_chat_model(str(folder), refusal_tokens=["I"])
    facts = {field.name: getattr(chat, field.name) for field in fields(chat)}
    checkpoint = replace(chat.weights.checkpoint, tokenizer=None)
    return {key: facts[key] for key in facts if key not in ("tokenizer", "template", "weights")} | {
        "checkpoint": checkpoint,
        "prompt": chat.encode("Name three birds"),
        "tokenizer": type(chat.tokenizer),
    }


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_short_way_reads_what_the_class_reads(arch, tiny_folder: Callable[[str], Path], monkeypatch):
    folder = tiny_folder(arch)
    assert plain_config(str(folder), None, json.loads((folder / "config.json").read_text())) is not None
    short = _facts(folder)
    monkeypatch.setattr(pretrained, "plain_config", lambda source, revision, values: None)
    assert _facts(folder) == short


@pytest.mark.parametrize(
    "change",
    [
        {"auto_map": {"AutoConfig": "configuration_x.XConfig"}},
        {"model_type": "nobody_knows"},
        {"num_hidden_layers": None},
        {"max_position_embeddings": None},
        {"text_config": {"hidden_size": 8}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_the_file_does_not_say_is_left_to_the_class(change, tiny_llama_folder: Path, tmp_path: Path):
    values = json.loads((tiny_llama_folder / "config.json").read_text()) | change
    (tmp_path / "tokenizer_config.json").write_text((tiny_llama_folder / "tokenizer_config.json").read_text())
    assert plain_config(str(tmp_path), None, {k: v for k, v in values.items() if v is not None}) is None


def test_a_tokenizer_without_a_class_is_left_to_the_class(tiny_llama_folder: Path, tmp_path: Path):
    values = json.loads((tiny_llama_folder / "config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text("{}")
    assert plain_config(str(tmp_path), None, values) is None
