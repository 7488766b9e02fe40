"""The plan beside the run that it is of."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tiny_models import tiny_model

from refusal_lightning import config as sections
from refusal_lightning.cli import main
from refusal_lightning.inference import batch_size
from refusal_lightning.inputs.model import open_model
from refusal_lightning.modules import generation, loss
from refusal_lightning.modules.activations import ActivationBatch, ActivationModule, PromptBatch
from refusal_lightning.modules.generation import GenerationBatch, GenerationModule, GenerationResult
from refusal_lightning.modules.loss import LossBatch, LossModule, LossSums
from refusal_lightning.planning import estimates, throughput
from refusal_lightning.planning.describe import describe
from refusal_lightning.planning.inputs import PlanInputs, Sections
from refusal_lightning.planning.plan import make_plan
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
    monkeypatch.setattr(
        "refusal_lightning.models.weights.Weights.engine", lambda *_: pytest.fail("the model was loaded")
    )
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

    def answered(self: GenerationModule, batch: GenerationBatch, batch_idx: int = 0) -> GenerationResult:
        if self._trainer is not None:  # the proof of the hooks answers two prompts, without a trainer
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
    stated = ["--plan.gb_per_s", "10", "--plan.tflops"]
    first, second = (planned(config, tmp_path, *stated, t) for t in ("0.00001", "0.00002"))
    assert first["throughput"] == {"tflops": 0.00001, "gb_per_s": 10, "source": "stated"}
    start = throughput.START_UP + first["weights_bytes"] / throughput.LOADED
    work = [plan["stages"]["cache"]["seconds"] - start for plan in (first, second)]
    assert work[0] == pytest.approx(2 * work[1]) == pytest.approx(first["stages"]["cache"]["flops"] / 1e7)
    slow = planned(config, tmp_path, "--plan.gb_per_s", "1", "--plan.tflops", "0.00001")
    assert slow["stages"]["evaluate"]["seconds"] > first["stages"]["evaluate"]["seconds"]
    wide = planned(config, tmp_path, "--cache.batch_size", "30")
    assert wide["stages"]["cache"]["work"] > first["stages"]["cache"]["work"]
    settings = yaml.safe_load(Path(config).read_text())
    assert settings["cache"]["batch_size"] == 3
    assert tiny_model("llama", 0)[0].num_parameters() == first["parameters"]["total"]


@pytest.mark.parametrize("more", [[], ["--evaluate.batch_size", "2"]])
def test_rows_decoded_at_a_time(config, tmp_path, monkeypatch, more):
    """Left to the memory, a plan has as many as a run on the same machine; its keys and values are theirs."""
    monkeypatch.setattr(batch_size, "host_memory", lambda: 29_500_000)
    more = ["--evaluate.losses", "[]", "--trainer.accelerator", "cpu", *more]
    settings = yaml.safe_load(Path(config).read_text())
    settings["evaluate"]["batch_size"] = None
    Path(config).write_text(yaml.safe_dump(settings))
    kept = planned(config, tmp_path, *more)["stages"]["evaluate"]["kept"]
    assert main(["cache", "--config", config]) == main(["select", "--config", config]) == 0
    used: list[tuple[int, int, int]] = []
    decode = generation.decode_rows

    def noted(model: Any, rows: Any, interventions: Any, stopping: Any, n_rows: int, *more: Any) -> Any:
        config = model.model.config.get_text_config()
        longest = max(len(row.token_ids) for row in rows) + stopping.max_new_tokens
        used.append((n_rows, len(rows), batch_size.row_bytes(config, longest, 4)))
        return decode(model, rows, interventions, stopping, n_rows, *more)

    monkeypatch.setattr(generation, "decode_rows", noted)
    assert main(["evaluate", "--config", config, *more]) == 0
    assert max(min(n, rows) * each for n, rows, each in used) == kept
    assert 1 < max(n for n, _, _ in used) < 36  # neither all rows nor one: it is the memory, or what is given


def test_a_spread_model_decodes_a_few_rows_of_one_intervention(config, tmp_path):
    small = ["--evaluate.batch_size", "null", "--evaluate.losses", "[]", "--plan.device_memory_gb", "80"]
    small += ["--trainer.accelerator", "auto"]
    whole, spread = (
        planned(config, tmp_path, *small, "--trainer.strategy", name)["stages"]["evaluate"]
        for name in ("ddp", "device_map")
    )
    assert whole["kept"] == 3 * spread["kept"]  # all of a few prompts' rows, under three interventions or one
    assert spread["reads"] == 3 * whole["reads"]
    assert spread["flops"] == pytest.approx(whole["flops"], rel=0.02)


def test_long_texts_of_the_loss_are_what_takes_most(config, tmp_path):
    narrow, wide = (
        planned(config, tmp_path, "--evaluate.losses", "[pile]", "--evaluate.loss_max_tokens", tokens)
        for tokens in ("8", "2048")
    )
    narrow, wide = narrow["stages"]["evaluate"], wide["stages"]["evaluate"]
    assert wide["work"] > 50 * narrow["work"]
    assert wide["memory_per_device"] > narrow["memory_per_device"]


def test_passes_of_the_losses(config, tmp_path, monkeypatch):
    """Rows, tokens, and tokens whose logits are made, of every pass; none for an answer beyond the context."""
    (tmp_path / "plain.json").write_text(json.dumps([{"text": "Once upon a time " * n} for n in (1, 2, 9)]))
    talk = [{"instruction": "Name a bird " * n, "response": "A thrush is one. " * n} for n in (1, 1, 4, 2000)]
    (tmp_path / "talk.json").write_text(json.dumps(talk))
    more = ["--evaluate.losses", json.dumps([str(tmp_path / f"{name}.json") for name in ("plain", "talk")])]
    planned_passes: list[tuple[int, ...]] = []
    work = estimates._loss_work

    def noted(subject: Any, passes: Any) -> float:
        planned_passes.extend(map(tuple, passes))
        return work(subject, passes)

    monkeypatch.setattr(estimates, "_loss_work", noted)
    planned(config, tmp_path, *more)
    ran: list[tuple[int, ...]] = []
    step, losses = LossModule.predict_step, loss.token_losses

    def seen(self: LossModule, batch: LossBatch, batch_idx: int = 0) -> LossSums:
        ran.append(tuple(batch.ids.shape))
        return step(self, batch, batch_idx)

    def made(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        ran[-1] += (logits.shape[1],)
        return losses(logits, ids)

    monkeypatch.setattr(LossModule, "predict_step", seen)
    monkeypatch.setattr(loss, "token_losses", made)
    for stage, options in (("cache", []), ("select", []), ("evaluate", more)):
        assert main([stage, "--config", config, *options]) == 0
    assert sorted(ran) == sorted(3 * planned_passes)  # three interventions
    assert any(logits < tokens for _, tokens, logits in ran)


@pytest.mark.parametrize("losses", ["[alpaca_custom_completions]", "[]"])
def test_no_prompts_to_answer(config, tmp_path, losses):
    more = ["--evaluate.harmful", "[]", "--evaluate.harmless", "[]", "--evaluate.losses", losses]
    stage = planned(config, tmp_path, *more)["stages"]["evaluate"]
    assert (stage["prompts"], stage["tokens"], stage["flops"]) == (0, 0, 0)


def test_speed_is_measured_on_a_cpu_and_assumed_of_a_gpu(config, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(throughput, "SECONDS", 0.01)
    here = planned(config, tmp_path, "--trainer.accelerator", "cpu")["throughput"]
    assert here["source"] == "measured here" and 0 < here["tflops"] < 50 and 0 < here["gb_per_s"] < 5000
    assert "(measured here; plan.tflops, plan.gb_per_s), start-up included" in capsys.readouterr().out
    gpu = ["--trainer.accelerator", "auto", "--plan.device_memory_gb", "80"]
    assert planned(config, tmp_path, *gpu)["throughput"]["source"] == "assumed"
    assert "100 TFLOP/s and 2e+03 GB/s" in capsys.readouterr().out


def test_what_select_keeps_and_how_many_candidates_it_has(config, tmp_path):
    """The baseline at every layer, as far as there is room; no pruned layers where all candidates are asked for."""
    more = ["--select.prune_layers", "0.5", "--plan.tflops", "1", "--plan.gb_per_s", "1"]
    staged, exhaustive = (
        planned(config, tmp_path, *more, "--select.mode", mode)["stages"]["select"] for mode in ("staged", "exhaustive")
    )
    assert exhaustive["flops"] > 1.5 * staged["flops"] and exhaustive["tokens"] > 1.5 * staged["tokens"]
    model, _ = tiny_model("llama", 0)
    each = model.config.num_hidden_layers * model.config.hidden_size * 4
    assert staged["kept"] > 0 and staged["kept"] % each == 0 and staged["kept"] / each < staged["tokens"]
    small = planned(config, tmp_path, *more, "--plan.device_memory_gb", "0.0003")["stages"]["select"]
    assert small["kept"] < staged["kept"]
    last = ["--select.position", "-1", "--select.layer", str(model.config.num_hidden_layers - 1)]
    by_hand = planned(config, tmp_path, *more, *last, "--select.mode", "staged")["stages"]["select"]
    # One candidate, in a pruned layer.
    assert 0 < by_hand["flops"] < staged["flops"] / 2
    assert planned(config, tmp_path, *more, *last, "--select.mode", "exhaustive")["stages"]["select"] == exhaustive


def test_mistakes(config, tmp_path, capsys):
    assert main(["plan", "--config", config, "--plan.tflops", "0"]) == 2
    assert "plan.tflops is 0.0; it must be above 0" in capsys.readouterr().err


def test_from_python(tiny_llama_folder, tmp_path, capsys):
    """A plan follows from its inputs alone: the same again, without a file or a line."""
    data = write_data(tmp_path / "data", train=8, val=3, test=3)
    model = sections.ModelConfig(str(tiny_llama_folder), alias="tiny", refusal_tokens=["I"])
    inputs = PlanInputs.open(
        open_model(model),
        Sections(
            model,
            sections.DataConfig(str(data), n_train=6, n_val=2),
            sections.StoreConfig(str(tmp_path / "store")),
            sections.TrainerConfig(accelerator="cpu"),
            sections.CacheConfig(datasets=["harmful_test"]),
            sections.SelectConfig(),
            sections.EvaluateConfig(losses=["alpaca_custom_completions"]),
            sections.PlanConfig(tflops=1.0, gb_per_s=10.0),
        ),
    )
    assert len(inputs.lengths.cached) == 19 and len(inputs.lengths.answered_harmless) == 3
    capsys.readouterr()
    for path in data.rglob("*.json"):
        path.unlink()
    plan = make_plan(inputs)
    assert plan == make_plan(inputs)
    assert list(plan.stages) == ["cache", "select", "evaluate"]
    assert {stage.estimate.prompts for stage in plan.stages.values()} == {19, 4, 6}
    assert plan.fits.strategy == "ddp" and plan.copies == 1
    assert capsys.readouterr().out == ""
    table = [line for line in describe(plan) if line.startswith(tuple(plan.stages))]
    assert len(table) == 3 and all("GB" in line for line in table)
