"""Every run proves its own hooks: sound models pass, a planted fault ends each stage with its figure."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_models import ARCHITECTURES

from refusal_lightning.cli import main
from refusal_lightning.doctor import CheckContext, guard, scoring
from refusal_lightning.doctor import ablation as ablation_check
from refusal_lightning.doctor.bounds import judge_prompts
from refusal_lightning.doctor.finding import Finding
from refusal_lightning.doctor.hook_proof import HookProof, guard_prompts
from refusal_lightning.errors import UserError
from refusal_lightning.inference import continuous_batching
from refusal_lightning.interventions import Intervention, ablation
from refusal_lightning.models import ChatModel, load_chat_model
from refusal_lightning.models.engines import bridge
from refusal_lightning.modules import scores
from runs import instructions, write_config, write_data

WORK = ("scores", "answer KL", "answers", "harness")


def encoded(chat: ChatModel, kind: str, count: int = 6) -> list[list[int]]:
    return [chat.encode(row["instruction"]) for row in instructions(kind, "val", count)]


def prove(chat: ChatModel, folder: Path, work=WORK) -> dict:
    """What a run's proof finds when it loads the model."""
    proof = HookProof("select", chat, folder, work, encoded(chat, "harmful"), encoded(chat, "harmless"))
    assert proof.figures() is None
    chat.engine("cpu")
    found = proof.figures()
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("arch", "dtype"),
    [(arch, "float32") for arch in ARCHITECTURES]
    + [("llama", "float16"), *((arch, "bfloat16") for arch in ("gemma2", "gpt_neox", "qwen3_moe"))],
)
def test_sound_models_pass(tiny_folder, tmp_path, caplog, arch, dtype):
    caplog.set_level(logging.INFO, "refusal_lightning")
    chat = load_chat_model(str(tiny_folder(arch)), refusal_tokens=["I"], dtype=dtype)
    found = prove(chat, tmp_path)
    assert list(found) == [
        *("padding", "ablation", "scores", "answer tokens", "decoding", "harness decoding"),
        "no hook left",
    ]
    assert "select: hooks proved on two prompts in" in caplog.text
    if dtype == "float32":
        assert all(entry["figure"] <= entry["bound"] for entry in found.values())


def test_a_system_message_is_shared_and_proved(tiny_folder, tmp_path):
    system = "You help people who walk in the garden with a dog and two children."
    chat = load_chat_model(str(tiny_folder("llama")), refusal_tokens=["I"], system_prompt=system)
    assert prove(chat, tmp_path)["scores"]["figure"] < 1e-4


def test_the_proof_and_the_search_of_shortcuts_are_a_few_passes(tiny_folder, tmp_path, monkeypatch):
    """What they cost is passes over two prompts: at most 3 % of the demo's `select`."""
    system = "You help people who walk in the garden with a dog and two children."
    chat = load_chat_model(str(tiny_folder("llama")), refusal_tokens=["I"], system_prompt=system)
    rows: list[int] = []
    boot = bridge._boot

    def counted(checkpoint, device):
        booted = boot(checkpoint, device)

        def count(module, args, kwargs) -> None:
            rows.append(len(args[0] if args else kwargs["input_ids"]))

        booted.original_model.register_forward_pre_hook(count, with_kwargs=True)
        return booted

    monkeypatch.setattr("refusal_lightning.models.engines.bridge._boot", counted)
    chat.engine("cpu")
    chat.release()
    of_loading = len(rows)
    prove(chat, tmp_path, ["scores"])
    rows = rows[2 * of_loading :]
    search = [2, *[1, 2] * 3]  # whole; from the shared beginning; entering in the middle and at the last layer
    alone_and_padded, plain, scoring = [1, 1, 2], [2, 2], [1, 2] * 3  # induce: the baseline, and the candidate
    assert sorted(rows) == sorted([*search, *alone_and_padded, *plain, *scoring])


def test_bypass_and_kl_are_of_the_same_passes(tiny_folder):
    """So that one pass of both kinds of prompts proves both."""
    chat = load_chat_model(str(tiny_folder("llama")), refusal_tokens=["I"])
    material = CheckContext(chat, "cpu", encoded(chat, "harmful", 2), encoded(chat, "harmless", 2))
    with torch.inference_mode():
        bypass, kl = (torch.stack(scoring._pass_logits(material, kind)) for kind in ("bypass", "kl"))
    assert torch.equal(bypass, kl)


def test_it_runs_once_and_only_where_weights_are_loaded(tiny_llama_folder, tmp_path, monkeypatch):
    chat = load_chat_model(str(tiny_llama_folder), refusal_tokens=["I"])
    calls = []

    def count(*args) -> dict:
        calls.append(args)
        return {}

    monkeypatch.setattr(guard, "prove_hooks", count)
    HookProof("select", chat, tmp_path, WORK, encoded(chat, "harmful"), encoded(chat, "harmless"))
    assert not calls
    for _ in range(3):
        chat.engine("cpu")
        chat.fast_engine("cpu")
    assert len(calls) == 1
    chat.release()
    chat.engine("cpu")
    assert len(calls) == 2  # other weights may have been read


def test_a_model_that_failed_is_not_kept(tiny_llama_folder, tmp_path, monkeypatch):
    chat = load_chat_model(str(tiny_llama_folder), refusal_tokens=["I"])
    wrong = lambda direction: Intervention("ablation", lambda n: ())  # noqa: E731
    monkeypatch.setattr(ablation_check, "ablation", wrong)
    HookProof("select", chat, tmp_path, WORK, encoded(chat, "harmful"), encoded(chat, "harmless"))
    for _ in range(2):
        with pytest.raises(UserError, match=r"proved wrong on .* before its work: ablation"):
            chat.engine("cpu")


def test_the_prompts_are_two_of_nearly_one_length():
    harmful = [[1] * 9, [1] * 5, [2] * 5, [1] * 7]
    harmless = [[1] * 5, [3] * 6, [1] * 20]
    first, more = guard_prompts(harmful, harmless)
    assert first == ([[1] * 5], [[3] * 6])
    assert guard_prompts(harmful[::-1], harmless[::-1])[0] == first
    assert more == ([[1] * 5, [2] * 5, [1] * 7, [1] * 9], [[1] * 5, [3] * 6, [1] * 20])
    assert guard_prompts([], [[1, 2], [1, 2], [2, 2]])[0] == ([[1, 2]], [[2, 2]])
    assert guard_prompts([[1]], [[1], [5, 6, 7]])[0] == ([[1]], [[5, 6, 7]])


def test_runs_of_one_prompt_are_proved_on_neutral_ones(tiny_llama_folder, tmp_path):
    chat = load_chat_model(str(tiny_llama_folder), refusal_tokens=["I"])
    same = encoded(chat, "harmful", 1)
    proof = HookProof("evaluate", chat, tmp_path, ["answers"], same, same)
    chat.engine("cpu")
    assert proof.figures()


def test_half_precision_is_judged_by_more_prompts(tiny_llama_folder, tmp_path, monkeypatch):
    """A near-tie may carry single prompts over the bound; a fault shows in most, and in float32 in any."""
    for dtype, share, passes in (("bfloat16", 8, True), ("bfloat16", 1, False), ("float32", 8, False)):
        seen: list[int] = []

        def over(material, share=share, seen=seen):
            seen.append(len(material.prompts))
            figures = [1.0 if i % share == 0 else 0.0 for i in range(len(material.prompts))]
            verdict = judge_prompts(figures, 0.5, material.dtype) if len(figures) > 2 else "fail"
            return Finding("padding", "", max(figures), 0.5, verdict, "mind this")

        chat = load_chat_model(str(tiny_llama_folder), refusal_tokens=["I"], dtype=dtype)
        monkeypatch.setattr(guard, "_ALWAYS", (over,))
        HookProof("select", chat, tmp_path, [], encoded(chat, "harmful"), encoded(chat, "harmless"))
        if passes:
            chat.engine("cpu")
        else:
            with pytest.raises(UserError, match="mind this"):
                chat.engine("cpu")
        assert seen == ([2, 8] if dtype == "bfloat16" else [2])


def _elsewhere(monkeypatch) -> str:
    """Ablation hooks at the blocks' inputs only."""

    def planted(direction) -> Intervention:
        (_, project), *_ = ablation(direction).hooks(1)
        return Intervention("ablation", lambda n: [(f"blocks.{i}.hook_resid_pre", project) for i in range(n)])

    monkeypatch.setattr(ablation_check, "ablation", planted)
    return "ablation"


def _leftover(monkeypatch) -> str:
    """A hook that nobody took off, and that changes nothing yet."""
    boot = bridge._boot

    def with_a_hook(checkpoint, device):
        booted = boot(checkpoint, device)
        booted.add_hook("blocks.1.hook_resid_post", lambda x, hook: x)
        return booted

    monkeypatch.setattr("refusal_lightning.models.engines.bridge._boot", with_a_hook)
    return "no hook left"


def _steps_on_one_row(monkeypatch) -> str:
    """Blocks that are stepped over give every row the first one's stream, as those do that return tuples."""
    plain = scores.skip_blocks
    monkeypatch.setattr(
        scores, "skip_blocks", lambda engine, layer, start: plain(engine, layer, start[:1].expand_as(start))
    )
    return "scores"


def _no_position_ids(monkeypatch) -> str:
    """Scoring passes of padded rows at shifted positions."""

    def last_logits(model, ids, mask, past=(), row_of_past=None):
        positions = torch.arange(ids.shape[1]).expand_as(ids) * 2
        return model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False).logits[:, -1].float()

    monkeypatch.setattr(scores, "last_logits", last_logits)
    return "scores"


def _wrong_mask(monkeypatch) -> str:
    """A decoder that does not see the first token of a row."""
    step = continuous_batching.SlotCache.step

    def blind(self, busy):
        cache, mask, positions = step(self, busy)
        mask = mask.clone()
        mask[:, -3] = 0
        return cache, mask, positions

    monkeypatch.setattr(continuous_batching.SlotCache, "step", blind)
    return "decoding"


FAULTS: dict[str, tuple[Callable, ...]] = {
    "select": (_elsewhere, _leftover, _steps_on_one_row, _no_position_ids),
    "evaluate": (_elsewhere, _leftover, _wrong_mask),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_llama_folder) -> Path:
    """A finished run of the three stages."""
    folder = tmp_path_factory.mktemp("proved")
    data = write_data(folder / "data", train=8, val=4, test=3)
    write_config(
        folder,
        tiny_llama_folder,
        data,
        data={"n_train": 6, "n_val": 3},
        evaluate={"max_new_tokens": 3, "losses": []},
    )
    for stage in ("cache", "select", "evaluate"):
        assert main([stage, "--config", str(folder / "config.yaml")]) == 0
        if stage == "cache":
            shutil.copytree(folder / "store", folder / "cached")
    return folder


def test_the_figures_are_in_the_record_and_stay(folder, capsys, monkeypatch):
    def proved() -> list[dict]:
        record = json.loads((folder / "runs" / "tiny" / "run.json").read_text())
        return [record[stage]["hooks_proved"] for stage in ("select", "evaluate")]

    before = proved()
    assert [set(entry) for entry in before] == [
        {"padding", "ablation", "scores", "no hook left"},
        {"padding", "ablation", "decoding", "no hook left"},
    ]
    assert all(entry["figure"] <= entry["bound"] for each in before for entry in each.values())
    monkeypatch.setattr("refusal_lightning.models.engines.bridge._boot", lambda *_: pytest.fail("the model was loaded"))
    for stage in ("select", "evaluate"):
        assert main([stage, "--config", str(folder / "config.yaml")]) == 0
    assert proved() == before
    assert "hooks proved" not in capsys.readouterr().out


@pytest.mark.parametrize(("stage", "fault"), [(stage, fault) for stage, faults in FAULTS.items() for fault in faults])
def test_a_planted_fault_ends_the_stage(folder, tmp_path, monkeypatch, capsys, stage, fault):
    check = fault(monkeypatch)
    again = ["--evaluate.max_new_tokens", "4"]
    if stage == "select":
        store = shutil.copytree(folder / "cached", tmp_path / "store")
        again = ["--store.root", str(store), "--runs.root", str(tmp_path)]
    monkeypatch.setattr("refusal_lightning.distributed.predict.barrier", lambda: pytest.fail("the work was done"))
    assert main([stage, "--config", str(folder / "config.yaml"), *again]) == 2
    message = capsys.readouterr().err
    assert f"error: this run's hooks were proved wrong on tiny before its work: {check}, " in message
    assert "is rounding. " in message


def test_a_check_that_breaks_ends_the_run_too(tiny_llama_folder, tmp_path, monkeypatch):
    def broken(*_):
        raise KeyError("sliding_attention")

    monkeypatch.setattr(scores, "prefix_pass", broken)
    chat = load_chat_model(str(tiny_llama_folder), refusal_tokens=["I"])
    with pytest.raises(UserError, match=r"the check of scores ended in KeyError \('sliding_attention'\)"):
        prove(chat, tmp_path)


def test_a_run_that_computes_nothing_stays_fast(folder):
    started = time.perf_counter()
    assert main(["select", "--config", str(folder / "config.yaml")]) == 0
    assert time.perf_counter() - started < 30
