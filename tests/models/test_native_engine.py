"""The model that decodes is the bridge's in other clothes: the same weights, the same hook points, or the bridge."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from tiny_models import ARCHITECTURES

import refusal_lightning.models.engines.native as hooked
from refusal_lightning.interventions import BASELINE, ablation, addition, intervene
from refusal_lightning.models import load_chat_model
from refusal_lightning.models.tokens import left_pad

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
    fast, slow = chat.decoder("cpu"), hooked.bridged_model(chat.bridge("cpu"))
    assert fast.kind == ("eager" if chat.alias == "gemma2" else "sdpa")  # Gemma 2 caps attention scores
    vector = torch.randn(chat.d_model, generator=torch.Generator().manual_seed(1))
    plain = _logits(fast, chat, BASELINE)
    for intervention in (BASELINE, ablation(vector), addition(vector, 1, 1.0)):
        found = _logits(fast, chat, intervention)
        torch.testing.assert_close(found, _logits(slow, chat, intervention), atol=2e-5, rtol=1e-5)
        assert intervention is BASELINE or (found - plain).abs().max() > 1e-2
    assert torch.equal(_logits(fast, chat, BASELINE), plain)  # nothing stays on


def test_weights_are_shared(chat):
    bridge = {tensor.data_ptr() for tensor in chat.bridge("cpu").original_model.parameters()}
    assert {tensor.data_ptr() for tensor in chat.decoder("cpu").model.parameters()} <= bridge


def test_hooks_come_off_after_an_exception(chat):
    model = chat.decoder("cpu")
    with pytest.raises(RuntimeError, match="planted"), intervene(model, ablation(torch.ones(chat.d_model))):
        raise RuntimeError("planted")
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.model.modules())


def test_a_hook_on_the_wrong_side_of_a_norm_is_found_out(tiny_folder):
    chat = load_chat_model(str(tiny_folder("gemma2")), refusal_tokens=["I"])
    made = hooked._native(chat.bridge("cpu"), "eager")
    assert hooked._agrees(made, chat.bridge("cpu"))
    places = cast(dict[str, Any], made.hook_dict)
    places["blocks.2.hook_attn_out"] = (made.model.model.layers[2].self_attn, "hook_out")
    assert not hooked._agrees(made, chat.bridge("cpu"))


@pytest.mark.parametrize("trouble", ["fails", "differs"])
def test_where_it_cannot_be_had_the_bridge_decodes(tiny_folder, monkeypatch, trouble):
    chat = load_chat_model(str(tiny_folder("llama")), refusal_tokens=["I"])
    expected = _logits(chat.decoder("cpu"), chat, addition(torch.ones(chat.d_model), 1, 1.0))

    def fails(*args):
        raise KeyError("no such name")

    monkeypatch.setattr(*((hooked, "_native", fails) if trouble == "fails" else (hooked, "_agrees", lambda *a: False)))
    model = hooked.hooked_model(chat.bridge("cpu"))
    assert model.kind == "bridge"
    found = _logits(model, chat, addition(torch.ones(chat.d_model), 1, 1.0))
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-5)
