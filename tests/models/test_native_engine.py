"""The model that decodes is the bridge's in other clothes: the same weights, the same hook points, or the bridge."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from tiny_models import ARCHITECTURES

from refusal_lightning.interventions import BASELINE, ablation, addition, intervene, record_activations, skip_blocks
from refusal_lightning.models import load_chat_model
from refusal_lightning.models.engines import agreement, registry
from refusal_lightning.models.engines.native import native_engine
from refusal_lightning.models.tokens import left_pad
from refusal_lightning.registry import Registry

INSTRUCTIONS = ["Name three birds", "How do I keep the plants in my garden alive when I travel for two weeks?"]


@pytest.fixture(scope="module", params=ARCHITECTURES)
def chat(request, tiny_folder):
    return load_chat_model(str(tiny_folder(request.param)), refusal_tokens=["I"], alias=request.param)


def _logits(model, chat, intervention):
    ids, mask = left_pad([chat.encode(i) for i in INSTRUCTIONS])
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    with torch.inference_mode(), intervene(model, intervention):
        return model.model(input_ids=ids, attention_mask=mask, position_ids=positions, logits_to_keep=1).logits


def test_every_architecture_has_one_and_it_equals_the_bridge(chat):
    fast, slow = chat.fast_engine("cpu"), chat.engine("cpu")
    assert fast.kind == ("eager" if chat.alias == "gemma2" else "sdpa")  # Gemma 2 caps attention scores
    vector = torch.randn(chat.d_model, generator=torch.Generator().manual_seed(1))
    plain = _logits(fast, chat, BASELINE)
    for intervention in (BASELINE, ablation(vector), addition(vector, 1, 1.0)):
        found = _logits(fast, chat, intervention)
        torch.testing.assert_close(found, _logits(slow, chat, intervention), atol=2e-5, rtol=1e-5)
        assert intervention is BASELINE or (found - plain).abs().max() > 1e-2
    assert torch.equal(_logits(fast, chat, BASELINE), plain)  # nothing stays on


def test_weights_are_shared(chat):
    weights = {tensor.data_ptr() for tensor in chat.engine("cpu").model.parameters()}
    assert {tensor.data_ptr() for tensor in chat.fast_engine("cpu").model.parameters()} <= weights


def test_whatever_takes_an_engine_takes_either(chat):
    """Activations, passes that enter at a layer, the count of hooks."""
    ids, mask = left_pad([chat.encode(i) for i in INSTRUCTIONS])
    found = []
    for engine in (chat.engine("cpu"), chat.fast_engine("cpu")):
        assert engine.n_layers == len(engine.blocks) == chat.n_layers
        with torch.inference_mode(), record_activations(engine, ["resid_pre"], [2], lambda x: x) as captured:
            assert engine.count_hooks() == 1
            whole = engine(ids, mask)
            assert whole.shape[1] == ids.shape[1]
        assert engine.count_hooks() == 0
        with torch.inference_mode(), skip_blocks(engine, 2, captured["resid_pre", 2]):
            entered = engine(ids, mask, logits_to_keep=1)
        torch.testing.assert_close(entered, whole[:, -1:], atol=2e-5, rtol=1e-5)
        found.append((captured["resid_pre", 2][mask.bool()], whole[mask.bool()]))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-5)


def test_an_engine_that_is_registered_is_tried_in_its_turn(tiny_folder, monkeypatch):
    """The first that agrees with the bridge is taken, whatever its name."""
    chat = load_chat_model(str(tiny_folder("llama")), refusal_tokens=["I"])
    reference = chat.engine("cpu")
    wrong = replace(native_engine(reference, "sdpa"), kind="wrong", places={})
    right = replace(native_engine(reference, "eager"), kind="right")
    engines = {"wrong": lambda reference: replace(wrong, model=_Shifted(wrong.model)), "right": lambda reference: right}
    monkeypatch.setattr(registry, "ENGINES", Registry("engine", engines))
    assert registry.fast_engine(reference) is right


class _Shifted(torch.nn.Module):
    """A model whose logits are not its own."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.get_input_embeddings = model, model.get_input_embeddings

    def forward(self, **inputs: Any) -> Any:
        out = self.model(**inputs)
        out.logits = out.logits + 5.0
        return out


def test_hooks_come_off_after_an_exception(chat):
    model = chat.fast_engine("cpu")
    with pytest.raises(RuntimeError, match="planted"), intervene(model, ablation(torch.ones(chat.d_model))):
        raise RuntimeError("planted")
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.model.modules())


def test_a_hook_on_the_wrong_side_of_a_norm_is_found_out(tiny_folder):
    chat = load_chat_model(str(tiny_folder("gemma2")), refusal_tokens=["I"])
    made = native_engine(chat.engine("cpu"), "eager")
    assert agreement.agrees(made, chat.engine("cpu"))
    places = cast(dict[str, Any], made.places)
    places["blocks.2.hook_attn_out"] = (made.model.model.layers[2].self_attn, "hook_out")
    assert not agreement.agrees(made, chat.engine("cpu"))


@pytest.mark.parametrize("trouble", ["fails", "differs"])
def test_where_it_cannot_be_had_the_bridge_decodes(tiny_folder, monkeypatch, trouble):
    chat = load_chat_model(str(tiny_folder("llama")), refusal_tokens=["I"])
    expected = _logits(chat.fast_engine("cpu"), chat, addition(torch.ones(chat.d_model), 1, 1.0))

    def fails(*args):
        raise KeyError("no such name")

    if trouble == "fails":
        monkeypatch.setattr(registry, "ENGINES", Registry("engine", {"sdpa": fails}))
    else:
        monkeypatch.setattr(registry, "agrees", lambda *args: False)
    model = registry.fast_engine(chat.engine("cpu"))
    assert model.kind == "bridge"
    found = _logits(model, chat, addition(torch.ones(chat.d_model), 1, 1.0))
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-5)
