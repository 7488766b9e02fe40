"""The plan beside the run that it is of."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from tiny_models import tiny_model

from refusal_lightning.cli import main
from refusal_lightning.models import ChatModel
from refusal_lightning.modules.activations import ActivationBatch, ActivationModule, PromptBatch
from refusal_lightning.modules.generation import Answers, GenerationBatch, GenerationModule
from runs import write_config, write_data


@pytest.fixture
def config(tmp_path, tiny_llama_folder) -> str:
    data = write_data(tmp_path / "data", train=140, val=6, test=6)
    sizes = {"n_train": 130, "n_val": 5}
    store = {"compression": "none", "shard_mb": 0.2}
    points = {"hook_points": ["resid_pre", "resid_mid", "attn_out", "mlp_out"]}  # beside which the names weigh little
    return write_config(tmp_path, tiny_llama_folder, data, data=sizes, store=store, cache=points)


def planned(config: str, tmp_path: Path, *more: str) -> dict:
    assert main(["plan", "--config", config, "--plan.out", str(tmp_path / "plan.json"), *more]) == 0
    return json.loads((tmp_path / "plan.json").read_text())


def test_what_a_real_run_takes(config, tmp_path, monkeypatch):
    """Prompts, tokens with their padding, files, and bytes where nothing is compressed."""
    monkeypatch.setattr(ChatModel, "bridge", lambda *_: pytest.fail("the model was loaded"))
    plan = planned(config, tmp_path)
    monkeypatch.undo()
    ran: list[int] = []
    step, answer = ActivationModule.predict_step, GenerationModule.predict_step

    def counted(self: ActivationModule, batch: PromptBatch, batch_idx: int = 0) -> ActivationBatch:
        ran.append(batch.ids.numel())
        return step(self, batch, batch_idx)

    monkeypatch.setattr(ActivationModule, "predict_step", counted)
    assert main(["cache", "--config", config]) == 0
    assert plan["stages"]["cache"]["tokens"] == pytest.approx(sum(ran), rel=0.02)
    (store,) = (tmp_path / "store").glob("*.zarr")
    files = [path for path in store.rglob("*") if path.is_file()]
    assert plan["store"]["files"] == len(files)
    assert plan["store"]["bytes"] == pytest.approx(sum(path.stat().st_size for path in files), rel=0.02)
    rows: list[int] = []

    def answered(self: GenerationModule, batch: GenerationBatch, batch_idx: int = 0) -> Answers:
        rows.append(len(batch.hashes))
        return answer(self, batch, batch_idx)

    monkeypatch.setattr(GenerationModule, "predict_step", answered)
    assert main(["select", "--config", config]) == main(["evaluate", "--config", config]) == 0
    assert 3 * plan["stages"]["evaluate"]["prompts"] == sum(rows)


def test_a_model_of_which_there_is_only_a_configuration(config, tmp_path, tiny_llama_folder, capsys):
    """Seventy thousand million parameters, on four nodes of eight GPUs: one copy on each node."""
    folder = tmp_path / "large"
    shutil.copytree(tiny_llama_folder, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    settings = json.loads((folder / "config.json").read_text())
    settings |= {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64}
    settings |= {"num_key_value_heads": 8, "head_dim": 128, "vocab_size": 128256, "tie_word_embeddings": False}
    (folder / "config.json").write_text(json.dumps({**settings, "max_position_embeddings": 8192}))
    more = ["--model.name", str(folder), "--model.dtype", "bfloat16", "--trainer.num_nodes", "4"]
    more += ["--trainer.devices", "8", "--trainer.accelerator", "auto", "--plan.device_memory_gb", "80"]
    more += ["--cache.hook_points", "[resid_pre]", "--store.shard_mb", "null"]
    plan = planned(config, tmp_path, *more, "--plan.n_prompts", "100000", "--plan.prompt_tokens", "90")
    assert plan["parameters"]["total"] == 70_553_706_496  # Llama 3 70B's
    assert (plan["strategy"], plan["copies"]) == ("device_map", 4)
    assert plan["stages"]["cache"]["tokens"] == 9_000_000
    assert plan["store"]["files"] < 2500
    assert "trainer.strategy: device_map" in capsys.readouterr().out
    small = planned(config, tmp_path, *more, "--trainer.devices", "1")
    assert small["strategy"] is None and "does not fit" in capsys.readouterr().out


def test_time_and_memory_follow_what_is_stated(config, tmp_path):
    first, second = (planned(config, tmp_path, "--plan.tflops", t) for t in ("1", "2"))
    assert first["stages"]["cache"]["seconds"] == pytest.approx(2 * second["stages"]["cache"]["seconds"])
    slow = planned(config, tmp_path, "--plan.gb_per_s", "1", "--plan.tflops", "1")
    assert slow["stages"]["evaluate"]["seconds"] > first["stages"]["evaluate"]["seconds"]
    wide = planned(config, tmp_path, "--cache.batch_size", "30")
    assert wide["stages"]["cache"]["work"] > first["stages"]["cache"]["work"]
    settings = yaml.safe_load(Path(config).read_text())
    assert settings["cache"]["batch_size"] == 3
    assert tiny_model("llama", 0)[0].num_parameters() == first["parameters"]["total"]


def test_mistakes(config, tmp_path, capsys):
    assert main(["plan", "--config", config, "--plan.tflops", "0"]) == 2
    assert "plan.tflops is 0.0; it must be above 0" in capsys.readouterr().err
