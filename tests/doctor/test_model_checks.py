"""The checks that run the model: green on sound models, red for each fault that is planted."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from patients import sound
from tiny_models import ARCHITECTURES

from refusal_lightning.data.labels import Labels
from refusal_lightning.directions.metrics.refusal_tokens import likelier_on_harmful
from refusal_lightning.doctor import CheckContext, Finding
from refusal_lightning.doctor import ablation as ablation_check
from refusal_lightning.doctor import hooks as hooks_check
from refusal_lightning.doctor import prefix_sharing as continuation_check
from refusal_lightning.doctor.bounds import judge_prompts, pass_bound
from refusal_lightning.doctor.passes import Reading, difference, relative_change
from refusal_lightning.doctor.precision import check_precision
from refusal_lightning.doctor.registry import CHECKS
from refusal_lightning.interventions import Intervention, ablation, skip_blocks
from refusal_lightning.models.blocks import BlockFacts
from refusal_lightning.models.engines.bridge import BridgeEngine


def run(name: str, material: CheckContext) -> Finding:
    with torch.inference_mode():
        return CHECKS[name].run(material)


def figure(finding: Finding) -> float:
    assert finding.figure is not None
    return finding.figure


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_sound_models_are_green(patient, arch):
    material = patient(arch)
    findings = [run(name, material) for name in CHECKS]
    assert [f.text() for f in findings if f.verdict != "ok" or f.advice] == []
    assert material.engine.count_hooks() == 0


@pytest.mark.parametrize("arch", ["llama", "gemma2", "gpt_neox", "qwen3_moe"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_within_its_bounds_and_beyond_float32s(tiny_folder, arch, dtype):
    material = sound(tiny_folder(arch), dtype=dtype)
    findings = {name: run(name, material) for name, check in CHECKS.items() if check.needs_weights}
    assert [f.text() for f in findings.values() if f.verdict == "fail"] == []
    assert figure(findings["ablation"]) > 1e-5  # a float32 bound would be wrong here


def forget(material: CheckContext, change: Any) -> None:
    """Replace the model's forward pass: ``change(forward, ids, keyword arguments)``."""
    bridge = material.chat.engine("cpu").bridge
    whole = type(bridge).forward
    vars(bridge)["forward"] = lambda ids, **more: change(lambda *a, **k: whole(bridge, *a, **k), ids, more)


@pytest.mark.parametrize("arch", ["llama", "gemma2", "gpt_neox"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["padding", "batch"])
def test_a_dropped_attention_mask(tiny_folder, arch, dtype, name):
    material = sound(tiny_folder(arch), dtype=dtype)
    forget(material, lambda forward, ids, more: forward(ids, **{**more, "attention_mask": torch.ones_like(ids)}))
    finding = run(name, material)
    assert finding.verdict == "fail"
    assert figure(finding) > finding.bound
    assert "batch" in finding.advice


@pytest.mark.parametrize("arch", ["llama", "gpt_neox"])
def test_a_cache_that_is_forgotten(tiny_folder, monkeypatch, arch):
    """The shared beginning's keys and values get lost; a long system message makes the beginning worth sharing."""
    material = sound(tiny_folder(arch), system_prompt="You help people who walk in the garden.")
    assert run("continuation", material).verdict == "ok"
    assert "continued from 0" not in run("continuation", material).compared
    real = continuation_check.prefix_pass
    monkeypatch.setattr(continuation_check, "prefix_pass", lambda *args: [(k * 0, v * 0) for k, v in real(*args)])
    assert run("continuation", material).verdict == "fail"


def test_rows_that_mix(patient):
    def mix(forward, ids, more):
        logits = forward(ids, **more)
        return logits + logits.flip(0)

    material = patient()
    forget(material, mix)
    assert run("batch", material).verdict == "fail"
    assert run("padding", material).verdict == "ok"


def test_nan_is_never_green(patient):
    material = patient()
    forget(material, lambda forward, ids, more: forward(ids, **more) * (math.nan if len(ids) > 1 else 1.0))
    finding = run("batch", material)
    assert finding.verdict == "fail"
    assert math.isnan(figure(finding))


def test_a_write_that_no_hook_sees(patient):
    """A block that adds something to the stream beside attention and MLP."""
    material = patient()
    block = material.engine.blocks[1]
    whole = block.forward
    vars(block)["forward"] = lambda hidden, *args, **more: whole(hidden, *args, **more) + 0.1 * hidden
    finding = run("writes", material)
    assert finding.verdict == "fail"
    assert figure(finding) > 1e-2


def test_hooks_that_see_what_a_post_norm_changes(patient, monkeypatch):
    """The module's own output is not what Gemma 2 adds to the stream; in Llama it is."""
    from refusal_lightning.doctor import residual_writes as writes_check

    @contextmanager
    def of_modules(engine, points, layers, take) -> Iterator[dict]:
        captured: dict = {}

        def record(key):
            return lambda x, hook: captured.update({key: take(x).clone()})

        renamed = {"attn_out": "attn.hook_out", "mlp_out": "mlp.hook_out"}
        names = {
            (p, i): f"blocks.{i}.{renamed[p]}" if p in renamed else f"blocks.{i}.hook_{p}"
            for p in points
            for i in layers
        }
        with engine.hooks(fwd_hooks=[(name, record(key)) for key, name in names.items()]):
            yield captured

    monkeypatch.setattr(writes_check, "record_activations", of_modules)
    assert run("writes", patient("llama")).verdict == "ok"
    assert run("writes", patient("gemma2")).verdict == "fail"
    assert run("writes", patient("gemma3_text")).verdict == "fail"


def _elsewhere(*names: str):
    """Ablation with its hooks at other places; ``{}`` is the block."""

    def planted(direction):
        (_, project), *_ = ablation(direction).hooks(1)
        return Intervention("ablation", lambda n: [(name.format(i), project) for i in range(n) for name in names])

    return planted


@pytest.mark.parametrize("arch", ["gemma2", "gemma3_text"])
def test_ablation_before_a_post_norm(patient, monkeypatch, arch):
    modules = _elsewhere("blocks.{}.hook_resid_pre", "blocks.{}.attn.hook_out", "blocks.{}.mlp.hook_out")
    monkeypatch.setattr(ablation_check, "ablation", modules)
    finding = run("ablation", patient(arch))
    assert finding.verdict == "fail"
    assert figure(finding) > 1e-3
    assert run("ablation", patient("llama")).verdict == "ok"  # without post-norms these places are as good


@pytest.mark.parametrize("arch", ["llama", "gpt_neox"])
def test_ablation_of_block_inputs_only(patient, monkeypatch, arch):
    monkeypatch.setattr(ablation_check, "ablation", _elsewhere("blocks.{}.hook_resid_pre"))
    assert run("ablation", patient(arch)).verdict == "fail"


def test_a_final_norm_that_the_embedding_goes_through_too(patient):
    """As NanoChat's does: what it is given then is no residual that a block has left."""
    material = patient()
    engine = material.chat.engine("cpu")

    def norm(module, args):
        engine.bridge.ln_final(args[0])

    with engine.blocks[0].register_forward_pre_hook(norm):
        assert run("ablation", material).verdict == "ok"


def test_ablation_of_a_direction_that_is_not_there(patient, monkeypatch):
    monkeypatch.setattr(ablation_check, "_before", lambda *_: 0.0)
    assert run("ablation", patient()).verdict == "warn"


def test_a_hook_that_was_there_before(patient):
    material = patient()
    material.chat.engine("cpu").bridge.add_hook("blocks.1.hook_resid_post", lambda x, hook: x)
    finding = run("hooks", material)
    assert finding.verdict == "fail"
    assert "1 hooks were on the model before" in finding.advice


def test_hooks_that_stay_on_after_an_error(patient, monkeypatch):
    @contextmanager
    def leaky(engine, intervention) -> Iterator[None]:
        for name, hook in intervention.hooks(engine.n_layers):
            engine.bridge.add_hook(name, hook)
        yield
        engine.bridge.reset_hooks()

    monkeypatch.setattr(hooks_check, "intervene", leaky)
    finding = run("hooks", patient())
    assert finding.verdict == "fail"
    assert figure(finding) > 0


def test_blocks_that_stay_stepped_over(patient, monkeypatch):
    material = patient()

    @contextmanager
    def sticky(engine, layer, stream) -> Iterator[None]:
        with skip_blocks(engine, layer, stream):
            yield
            kept = {block: vars(block)["forward"] for block in engine.blocks[:layer]}
        for block, forward in kept.items():
            vars(block)["forward"] = lambda hidden, *a, forward=forward, **k: torch.zeros_like(hidden)

    monkeypatch.setattr(hooks_check, "skip_blocks", sticky)
    finding = run("hooks", material)
    assert finding.verdict == "fail"
    assert finding.figure == 0  # no hook is left, and yet the model is another


def test_refusal_tokens_that_cover_nothing(patient):
    material = patient()
    covered = run("refusal tokens", material)
    unlikely = torch.stack([r.logits for r in material.alone]).mean(0).argsort()[:3].tolist()
    material.chat.refusal_ids[:], before = unlikely, list(material.chat.refusal_ids)
    finding = run("refusal tokens", material)
    assert (covered.verdict, finding.verdict) == ("ok", "fail")
    assert figure(covered) >= 0.5 > 0.05 >= figure(finding)
    assert "likeliest first tokens there are" in finding.advice
    material.chat.refusal_ids[:] = before[:1]
    half = run("refusal tokens", material)
    assert (half.verdict, 0.05 < figure(half) < 0.5) == ("warn", True)


def test_refusal_tokens_that_begin_other_answers_too(patient):
    material = patient()
    chat = replace(material.chat, refusal_ids=list(range(material.chat.vocab_size)))
    finding = run("refusal tokens", CheckContext(chat, "cpu", material.harmful, material.harmless))
    assert (finding.verdict, finding.figure) == ("warn", pytest.approx(1.0))
    assert "harmless prompts as often" in finding.advice


def test_refusal_tokens_are_found_from_the_prompts(patient):
    material = patient()
    first = torch.stack([reading.logits.double() for reading in material.alone]).softmax(-1)
    split = len(material.harmful)
    expected = likelier_on_harmful(first[:split].mean(0), first[split:].mean(0))
    material.chat = replace(material.chat, refusal_ids=[])
    finding = run("refusal tokens", material)
    assert ("found here" in finding.compared) == bool(expected)
    assert finding.figure == pytest.approx(sum(t.harmful for t in expected)) if expected else finding.figure is None


def test_no_refusal_tokens_to_be_found(patient):
    material = patient()
    same = CheckContext(replace(material.chat, refusal_ids=[]), "cpu", material.harmful, material.harmful)
    finding = run("refusal tokens", same)
    assert (finding.verdict, finding.figure) == ("warn", None)
    assert "no first token is much likelier" in finding.advice


def _reading(seed: int, **changes: Any) -> Reading:
    made = torch.Generator().manual_seed(seed)
    reading = Reading(torch.randn(50, generator=made), torch.randn(4, 2, 8, generator=made))
    return replace(reading, **changes)


def test_difference_is_relative_and_knows_nan():
    one = _reading(0)
    assert difference(one, one) == 0
    shifted = replace(one, logits=one.logits + 5)
    assert relative_change(shifted.logits, one.logits) < 1e-6  # a constant changes no probability
    assert relative_change(one.logits * 1.1, one.logits) == pytest.approx(0.1, rel=1e-4)
    longer = one.resid_pre.clone()
    longer[2, 1] *= 1.5
    assert difference(replace(one, resid_pre=longer), one) == pytest.approx(0.5, rel=1e-4)
    masked = replace(one, logits=one.logits.index_fill(0, torch.tensor([3]), -math.inf))
    assert difference(masked, masked) == 0
    assert not difference(masked, one) < 1e9
    assert math.isnan(difference(replace(one, resid_pre=one.resid_pre * math.nan), one))
    assert math.isnan(difference(replace(one, logits=one.logits * math.nan), one))


def test_a_minority_may_be_over_in_half_precision_only():
    figures = [0.1, 0.1, 0.9]
    assert judge_prompts(figures, 1.0, torch.float32) == "ok"
    assert judge_prompts(figures, 0.5, torch.bfloat16) == "warn"
    assert judge_prompts(figures, 0.5, torch.float32) == "fail"
    assert judge_prompts(figures, 0.05, torch.bfloat16) == "fail"
    for broken in (math.nan, math.inf):
        assert judge_prompts([0.1, 0.1, broken], 0.5, torch.bfloat16) == "fail"


def test_bounds_grow_with_epsilon_and_depth():
    assert pass_bound(torch.float32, 32) == 1e-4
    assert pass_bound(torch.float16, 32) < pass_bound(torch.bfloat16, 32) < pass_bound(torch.bfloat16, 80) < 0.25


def test_precision(patient, tiny_folder):
    material = patient()
    with torch.inference_mode():
        half = sound(tiny_folder("llama"), dtype="bfloat16").alone
        verdicts = {
            "sound": check_precision(material, half, "bfloat16"),
            "coarse": check_precision(material, [replace(r, logits=r.logits.round()) for r in half], "bfloat16"),
            "overflown": check_precision(material, [replace(r, logits=r.logits / 0) for r in half], "float16"),
        }
    assert [f.verdict for f in verdicts.values()] == ["ok", "warn", "fail"]
    assert figure(verdicts["sound"]) > 1e-4


def test_a_finding_is_a_line_and_what_to_do():
    sound_one = Finding("padding, float32", "this and that", 1.5e-7, 1e-4, "ok").text()
    assert sound_one == "ok    padding, float32        1.5e-07 <= 1.0e-04  this and that"
    lines = Finding("refusal tokens", "a share", None, 0.5, "warn", "do this", True, ("- a", "+ b")).text().splitlines()
    assert lines[1:] == ["      do this", "      - a", "      + b"]
    assert lines[0].index(">=") == sound_one.index("<=")


def test_a_hook_counts_once_whatever_its_points_names():
    one = SimpleNamespace(fwd_hooks=[1], _forward_hooks={5: 1})
    other = SimpleNamespace(fwd_hooks=[], _forward_hooks={2: 3})
    bridge: Any = SimpleNamespace(hook_dict={"a": one, "alias of a": one, "b": other})
    assert BridgeEngine(bridge, BlockFacts((), True, None), torch.device("cpu")).count_hooks() == 2


def test_refusal_tokens_of_other_kinds_are_told_and_not_judged(tiny_llama_folder):
    """By the labels of the user, whatever the share."""
    patient = sound(tiny_llama_folder)
    patient.labels = Labels("sea", "mountain")
    finding = run("refusal tokens", patient)
    assert finding.verdict == "ok" and not finding.advice
    assert "on sea prompts" in finding.compared and "on mountain ones" in finding.compared
    assert "harm" not in finding.text()
    nothing = CheckContext(
        replace(patient.chat, refusal_ids=[]), "cpu", patient.harmful, patient.harmful, labels=patient.labels
    )
    finding = run("refusal tokens", nothing)
    assert finding.verdict == "ok" and finding.figure is None and "none are named" in finding.compared
