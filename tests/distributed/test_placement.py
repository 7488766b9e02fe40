"""A model spread over CPU and disk does what it does in one piece. (Over GPUs the same code runs; here is none.)"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from placement import spread
from qwen1_checkpoint import write_qwen1

from refusal_lightning.cli import main
from refusal_lightning.config import ModelConfig
from refusal_lightning.errors import UserError
from refusal_lightning.models import load_chat_model
from refusal_lightning.models.engines import bridge
from runs import store_files, write_config, write_data


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_data(tmp_path_factory.mktemp("data") / "made-up", train=6, val=3, test=2)


def run(folder: Path, model: Path, data: Path, **settings: object) -> Path:
    """All three stages; the folder of the run's files."""
    folder.mkdir()
    model_section = {"name": str(model), "alias": "tiny", "refusal_tokens": ["I"], **settings}
    config = write_config(
        folder,
        model,
        data,
        model=model_section,
        data={"root": str(data), "n_train": 4, "n_val": 2},
        select={"answer_kl_tokens": 2, "batch_size": 32},
        evaluate={"max_new_tokens": 3},
    )
    for stage in ("cache", "select", "evaluate"):
        assert main([stage, "--config", config]) == 0
    return folder


@pytest.mark.parametrize("architecture", ["llama", "gemma2"])
def test_a_spread_model_gives_the_same_activations_scores_and_answers(tiny_folder, tmp_path, data, architecture):
    model = tiny_folder(architecture)
    whole = run(tmp_path / "whole", model, data)
    parts = run(
        tmp_path / "parts",
        model,
        data,
        device_map=spread(architecture),
        offload_folder=str(tmp_path / "weights"),
    )
    assert store_files(whole / "store") == store_files(parts / "store")
    names = sorted(str(path.relative_to(whole)) for path in (whole / "runs").rglob("*.json") if path.name != "run.json")
    assert any("answer_kl" in name for name in names) and any("completions" in name for name in names)
    for name in names:
        assert json.loads((whole / name).read_text()) == json.loads((parts / name).read_text()), name
    directions = [torch.load(folder / "runs" / "tiny" / "direction.pt", weights_only=True) for folder in (whole, parts)]
    assert torch.equal(*directions)


def test_doctor_finds_the_same_in_a_spread_model(tiny_folder, tmp_path, data):
    """Figures of passes through weights on disk are those of the whole model, check by check."""
    model = tiny_folder("llama")
    config = write_config(tmp_path, model, data, data={"root": str(data), "n_train": 4, "n_val": 2})
    in_parts = ["--model.device_map", json.dumps(spread("llama"))]
    in_parts += ["--model.offload_folder", str(tmp_path / "weights")]
    found = []
    for name, more in (("whole", []), ("parts", in_parts)):
        out = tmp_path / f"{name}.json"
        main(["doctor", "--config", config, "--doctor.out", str(out), *more])
        found.append(json.loads(out.read_text())["findings"])
    whole, parts = ([(f["name"], f["verdict"], f["advice"]) for f in findings] for findings in found)
    assert whole == parts
    assert not [advice for _, _, advice in parts if "the check itself ended in" in advice]
    assert all(verdict == "ok" for name, verdict, _ in parts if name in ("writes", "ablation", "scores", "decoding"))


def test_doctor_spreads_the_model_as_the_trainer_says(tiny_folder, tmp_path, data, monkeypatch):
    config = write_config(tmp_path, tiny_folder("llama"), data, data={"root": str(data), "n_train": 4, "n_val": 2})
    maps = []
    boot = bridge._boot

    def noted(checkpoint, device):
        maps.append(checkpoint.device_map)
        return boot(checkpoint, device)

    monkeypatch.setattr("refusal_lightning.models.engines.bridge._boot", noted)
    main(["doctor", "--config", config, "--doctor.n_prompts", "2", "--trainer.strategy", "device_map"])
    assert maps == [{"": "cpu"}]  # on GPUs it is "auto"


def test_the_parts_are_where_the_map_says(tiny_folder, tmp_path):
    chat = load_chat_model(
        str(tiny_folder("llama")), refusal_tokens=["I"], device_map=spread("llama"), offload_folder=str(tmp_path)
    )
    assert chat.engine("cpu").model.hf_device_map == spread("llama")
    assert chat.engine("cpu").input_device == torch.device("cpu")  # the embedding's own weights are on disk


def test_first_generation_qwen_can_be_spread(tmp_path):
    folder = write_qwen1(tmp_path / "Qwen-1_8B-Chat")
    device_map = {**spread("llama")}
    del device_map["model.layers.3"]
    ids = torch.randint(0, 393, (1, 20), generator=torch.Generator().manual_seed(1))
    logits = []
    for settings in ({}, {"device_map": device_map, "offload_folder": str(tmp_path / "weights")}):
        chat = load_chat_model(str(folder), refusal_tokens=["I"], **settings)  # type: ignore[arg-type]
        with torch.inference_mode():
            logits.append(chat.engine("cpu")(ids, attention_mask=torch.ones_like(ids)))
    assert torch.equal(*logits)


def test_a_map_and_several_processes_exclude_each_other(tiny_llama_folder, tmp_path, data, capsys, monkeypatch):
    monkeypatch.setattr(
        "refusal_lightning.models.weights.Weights.engine", lambda *_: pytest.fail("the model was loaded")
    )
    config = write_config(tmp_path, tiny_llama_folder, data, data={"root": str(data), "n_train": 4, "n_val": 2})
    arguments = ["--model.device_map", "auto", "--trainer.devices", "2", "--trainer.strategy", "ddp"]
    assert main(["cache", "--config", config, *arguments]) == 2
    assert "model.device_map spreads one copy of the model" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["{model: tpu}", "{}", "everywhere", "{model: 0, lm_head: cpu}"])
def test_maps_that_are_none(capsys, value):
    assert main(["cache", "--model.device_map", value]) == 2
    assert "model.device_map" in capsys.readouterr().err


def test_a_gpu_that_is_not_there(tiny_llama_folder):
    for number in (99, "cuda:99"):
        chat = load_chat_model(str(tiny_llama_folder), refusal_tokens=["I"], device_map={"": number})
        with pytest.raises(UserError, match=r"names GPU 99, and this machine shows \d+ GPUs"):
            chat.engine("cpu")


def test_maps_that_are():
    for value in ("auto", {"": 0}, {"model": "cuda:1", "lm_head": 1}, {"model": "cpu", "lm_head": "disk"}, None):
        assert ModelConfig(device_map=value).device_map == value  # type: ignore[arg-type]
