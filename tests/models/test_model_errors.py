"""What a user can get wrong about a model: one clear line each, exit status 2, before any weights are loaded."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError
from tiny_models import tiny_model, tiny_tokenizer

from refusal_lightning.cli import main
from refusal_lightning.models import load_chat_model
from runs import write_config, write_data


@pytest.fixture(autouse=True)
def no_weights(monkeypatch):
    monkeypatch.setattr(
        "refusal_lightning.models.weights.Weights.engine", lambda *_: pytest.fail("the model was loaded")
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_data(tmp_path_factory.mktemp("data") / "made-up")


@pytest.fixture
def line(tmp_path, data, capsys):
    """``line(model, stage, ...)``: the one line that a stage must end with on a model."""

    def run(model: str | Path, *arguments: str, stage: str = "cache", root: Path = data) -> str:
        config = write_config(tmp_path, Path("x"), root)
        capsys.readouterr()
        assert main([stage, "--config", config, "--model.name", str(model), *arguments]) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1, lines
        return lines[0]

    return run


def folder_with(path: Path, config: dict[str, Any], template: str | None = "unchanged") -> Path:
    """A folder with a configuration and the tiny tokenizer, perhaps with another chat template."""
    tokenizer = tiny_tokenizer()
    if template != "unchanged":
        tokenizer.chat_template = template
    tokenizer.save_pretrained(path)
    (path / "config.json").write_text(json.dumps(config))
    return path


@pytest.fixture
def llama() -> dict[str, Any]:
    return dict(tiny_model("llama")[0].config.to_dict())


def test_an_encoder_decoder(tmp_path, line):
    folder = folder_with(tmp_path / "t5", {"model_type": "t5", "is_encoder_decoder": True})
    assert "is an encoder-decoder; only decoder-only chat models" in line(folder)


def test_a_base_model(tmp_path, line, llama):
    message = line(folder_with(tmp_path / "base", llama, None))
    assert "its tokenizer has no chat template; name its family with model.family" in message


def test_a_template_that_drops_the_instruction(tmp_path, line, llama):
    message = line(folder_with(tmp_path / "deaf", llama, "{{ bos_token }}hello<|assistant|>"))
    assert "drops the instruction; set model.family" in message


def test_a_refusal_token_that_is_several(line, tiny_llama_folder):
    message = line(tiny_llama_folder, "--model.refusal_tokens", "[forest of pines]")
    assert "model.refusal_tokens: 'forest of pines' is" in message and "give single tokens" in message


def test_code_of_the_repository_is_not_run(tmp_path, line):
    folder = folder_with(
        tmp_path / "own", {"model_type": "own", "auto_map": {"AutoConfig": "configuration_own.OwnConfig"}}
    )
    (folder / "configuration_own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    assert "needs code of its own repository; read it, then give --model.trust_remote_code true" in line(folder)
    assert not (tmp_path / "ran").exists()


def test_an_architecture_that_is_not_known(tmp_path, line):
    message = line(folder_with(tmp_path / "new", {"model_type": "from-next-year"}))
    assert "of an architecture that this release of transformers has no class for" in message


def _refusal(kind: type[HfHubHTTPError], status: int) -> HfHubHTTPError:
    response: Any = SimpleNamespace(headers={}, request=None, status_code=status)
    return kind(f"{status} Client Error.\nCannot access the repo for url x.", response=response)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            _refusal(GatedRepoError, 401),
            "is gated: accept its licence on its page at huggingface.co, then set HF_TOKEN",
        ),
        (_refusal(GatedRepoError, 403), "is gated: accept its licence"),
        (_refusal(HfHubHTTPError, 403), "is gated: accept its licence"),
        (_refusal(RepositoryNotFoundError, 401), "cannot be read (no such folder, not on the Hub, or no network)"),
        (_refusal(HfHubHTTPError, 500), "cannot be read (no such folder, not on the Hub, or no network)"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_the_hub_refuses(line, monkeypatch, error, message):
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise error

    monkeypatch.setattr("transformers.utils.hub.hf_hub_download", refuse)
    assert f"model 'meta-llama/Llama-2-7b-chat-hf' {message}" in line("meta-llama/Llama-2-7b-chat-hf")


def test_a_prompt_that_is_too_long(tmp_path, tmp_path_factory, line, llama):
    """The set and the row in its file, from 0 as in all messages; never the text."""
    folder = folder_with(tmp_path / "short", {**llama, "max_position_embeddings": 90})
    for name, row, stage, arguments in (
        ("harmful_train", 17, "cache", ("--data.n_train", "24")),
        ("harmless_val", 4, "cache", ("--data.n_val", "6")),
        ("harmful_test", 2, "cache", ("--cache.datasets", "[harmful_test]")),
        ("harmless_train", 9, "select", ("--data.n_train", "24")),
    ):
        root = write_data(tmp_path_factory.mktemp("long") / "data")
        path = root / "splits" / f"{name}.json"
        rows = json.loads(path.read_text())
        rows[row]["instruction"] = "zebra " * 60
        path.write_text(json.dumps(rows))
        message = line(folder, *arguments, stage=stage, root=root)
        assert f"{name}, row {row}: the prompt has" in message and "context holds 90; take it out" in message
        assert "zebra" not in message


def test_the_hubs_commit_is_in_the_identity(tmp_path, monkeypatch, llama):
    commit = "89abcdef0123456789abcdef0123456789abcdef"
    root = tmp_path / "models--some--model"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text(commit)
    folder_with(root / "snapshots" / commit, llama)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    chat = load_chat_model("some/model", refusal_tokens=["I"])
    assert chat.identity["model"] == {"name": "some/model", "commit": commit}
    assert chat.checkpoint.revision == commit
