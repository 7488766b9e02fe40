"""What stored results depend on is in their keys, and other versions of packages are said."""

from __future__ import annotations

import json
import shutil
from datetime import date
from pathlib import Path

import pytest
from tiny_models import CHAT_TEMPLATE, save_tiny_model

from refusal_lightning.cli import main
from refusal_lightning.config import ModelConfig
from refusal_lightning.inputs.model import open_model
from refusal_lightning.io import versions
from refusal_lightning.models import load_chat_model
from refusal_lightning.stages.evaluate import completions, losses
from refusal_lightning.stages.select import cross_checks, scoring
from runs import write_config, write_data


class LoadedError(Exception):
    """The model's weights were asked for."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_llama_folder) -> Path:
    """A finished run with answers, losses and the KL of answers."""
    folder = tmp_path_factory.mktemp("keys")
    data = write_data(folder / "data", train=6, val=3, test=2)
    config = write_config(
        folder,
        tiny_llama_folder,
        data,
        data={"root": str(data), "n_train": 4, "n_val": 2},
        select={"answer_kl_tokens": 2, "batch_size": 32},
        evaluate={"max_new_tokens": 2, "losses": ["alpaca_custom_completions"]},
    )
    for stage in ("cache", "select", "evaluate"):
        assert main([stage, "--config", config]) == 0
    return folder


def loads(folder: Path, monkeypatch, stage: str, *arguments: str) -> bool:
    """Whether a stage computes anything anew."""

    def loaded(checkpoint, device):
        raise LoadedError

    with monkeypatch.context() as patch:
        patch.setattr("refusal_lightning.models.engines.bridge._boot", loaded)
        status = main([stage, "--config", str(folder / "config.yaml"), *arguments])
    return status != 0


def test_results_of_another_definition_are_not_used(folder, monkeypatch, capsys):
    assert not loads(folder, monkeypatch, "select")
    assert not loads(folder, monkeypatch, "evaluate")
    for stage, module, name in (
        ("select", scoring, "SCORE_VERSION"),
        ("select", cross_checks, "ANSWER_KL_VERSION"),
        ("evaluate", completions, "ANSWER_VERSION"),
        ("evaluate", losses, "LOSS_VERSION"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, getattr(module, name) + 1)
            assert loads(folder, monkeypatch, stage), name
            assert "LoadedError" in capsys.readouterr().err


def test_other_stop_tokens_are_other_baseline_answers(folder, monkeypatch, capsys):
    assert loads(folder, monkeypatch, "select", "--model.stop_tokens", "[11]")
    assert "KL over 2 answer tokens" in capsys.readouterr().out


def test_other_versions_are_said(folder, monkeypatch, capsys):
    here = versions.package_versions()
    assert not loads(folder, monkeypatch, "select")
    assert "made with" not in capsys.readouterr().out
    for module in (versions, scoring):
        monkeypatch.setattr(module, "package_versions", lambda: {**here, "torch": "9.9", "zarr": "9"})
    for stage in ("cache", "select"):
        assert not loads(folder, monkeypatch, stage)
        out = capsys.readouterr().out
        assert f"was made with torch {here['torch']} (here 9.9); " in out
        assert ("warning: scores in" in out) == (stage == "select")
    assert versions.other_versions([{}, {"torch": "1"}, {"torch": "2", "numpy": "1"}]) == "torch 1 and 2 (here 9.9)"


def test_code_that_comes_with_weights_is_part_of_them(tmp_path):
    folder = save_tiny_model("llama", tmp_path / "model")

    def identity(**settings) -> dict:
        return load_chat_model(str(folder), refusal_tokens=["I"], **settings).identity

    without, own = identity(), identity(trust_remote_code=True)
    assert without == own  # no code is there
    (folder / "modeling.py").write_text("a = 1")
    assert identity() == without  # and here it is not run
    first = identity(trust_remote_code=True)
    assert first != without
    (folder / "modeling.py").write_text("a = 22")
    assert identity(trust_remote_code=True) != first


@pytest.mark.parametrize(("text", "warns"), [("{{ strftime_now('%d %b %Y') }}", True), ("{{ date_string }}", False)])
def test_a_template_that_writes_the_date_is_said(tmp_path, tiny_llama_folder, caplog, text, warns):
    folder = shutil.copytree(tiny_llama_folder, tmp_path / "model")
    template = CHAT_TEMPLATE.replace("{{ bos_token }}", "{{ bos_token }}" + text + "{# strftime_now #}")
    (folder / "chat_template.jinja").write_text(template)
    chat = open_model(ModelConfig(name=str(folder), refusal_tokens=["I"]))
    assert (str(date.today().year) in chat.template.text) == warns
    assert ("writes today's date into every prompt" in caplog.text) == warns


def test_the_record_of_a_run_with_answer_kl(folder):
    record = json.loads((folder / "runs" / "tiny" / "run.json").read_text())
    assert "answer tokens" in record["select"]["hooks_proved"]
