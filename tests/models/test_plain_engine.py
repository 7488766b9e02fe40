"""A user's own Hugging Face model under interventions gives what the bridge and orthogonalised weights give."""

from __future__ import annotations

import gc
import weakref
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from on_cpu import Generation
from orthogonalise import orthogonalise
from tiny_models import ARCHITECTURES, UNUSUAL_ARCHITECTURES, tiny_model
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, LlamaModel, T5Config

from refusal_lightning.errors import UserError
from refusal_lightning.interventions import ablation, addition, intervene, record_activations, skip_blocks
from refusal_lightning.models import load_chat_model
from refusal_lightning.models.engines.adopt import engine_of
from refusal_lightning.models.engines.layout import POINTS
from refusal_lightning.models.tokens import left_pad
from refusal_lightning.modules.generation import GenerationBatch

INSTRUCTIONS = ["Name three birds", "How do I keep the plants in my garden alive when I travel for two weeks?"]
POST_NORM = ("gemma2", "gemma3_text")
SEQUENTIAL = [arch for arch in ARCHITECTURES if arch not in POST_NORM]
NEW_TOKENS = 6


@pytest.fixture(scope="module", params=[*ARCHITECTURES, *UNUSUAL_ARCHITECTURES])
def chat(request, tiny_folder):
    return load_chat_model(str(tiny_folder(request.param)), refusal_tokens=["I"], alias=request.param)


@pytest.fixture(scope="module")
def plain(chat, tiny_folder) -> Any:
    """As a user loads it: another implementation of attention than the bridge's, where there is one."""
    return AutoModelForCausalLM.from_pretrained(tiny_folder(chat.alias), dtype=torch.float32)


def _vector(width: int = 32) -> torch.Tensor:
    return torch.randn(width, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def _acting(width: int = 32) -> dict[str, list[Any]]:
    vector, other = _vector(width), _vector(width).roll(3)
    return {
        "baseline": [],
        "ablation": [ablation(vector)],
        "addition": [addition(vector, 1, 1.0)],
        "both": [addition(other, 2, -1.0), ablation(vector)],
    }


def _logits(engine: Any, ids: torch.Tensor, mask: torch.Tensor, interventions: list[Any]) -> torch.Tensor:
    with torch.inference_mode(), ExitStack() as stack:
        for intervention in interventions:
            stack.enter_context(intervene(engine, intervention))
        return engine(ids, attention_mask=mask)[mask.bool()]


def _count_hooks(model: torch.nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_logits_are_the_bridges(chat, plain):
    before = _count_hooks(plain)
    ids, mask = left_pad([chat.encode(text) for text in INSTRUCTIONS])
    mine, bridge = engine_of(plain), chat.engine("cpu")
    points = {f"blocks.{layer}.hook_{point}" for layer in range(bridge.n_layers) for point in POINTS}
    assert set(mine.hook_names) == points & set(bridge.hook_names)
    found = {}
    for name, interventions in _acting().items():
        found[name] = _logits(mine, ids, mask, interventions)
        torch.testing.assert_close(found[name], _logits(bridge, ids, mask, interventions), atol=3e-5, rtol=1e-5)
        assert name == "baseline" or (found[name] - found["baseline"]).abs().max() > 1e-2
    assert torch.equal(_logits(mine, ids, mask, []), found["baseline"])
    assert _count_hooks(plain) == before == mine.count_hooks() == 0


def test_greedy_answers_are_the_packages(chat, plain):
    """``generate`` with its own cache, against the decoder of `evaluate`."""
    acting = {name: each for name, each in _acting().items() if len(each) == 1}
    prompts = [chat.encode(text) for text in INSTRUCTIONS]
    decoder = Generation(chat, [each for (each,) in acting.values()], NEW_TOKENS, 4)
    rows = [(prompt, number) for number in range(len(acting)) for prompt in prompts]
    expected = decoder.predict_step(
        GenerationBatch([""] * len(rows), [p for p, _ in rows], [""] * len(rows), [n for _, n in rows])
    ).texts
    ids, mask = left_pad(prompts)
    made = []
    for (each,) in acting.values():
        with intervene(engine_of(plain), each):
            out = plain.generate(ids, attention_mask=mask, do_sample=False, max_new_tokens=NEW_TOKENS)
        made += [chat.tokenizer.decode(row, skip_special_tokens=True).strip() for row in out[:, ids.shape[1] :]]
    assert made == expected
    plainly = plain.generate(ids, attention_mask=mask, do_sample=False, max_new_tokens=NEW_TOKENS)
    assert [chat.tokenizer.decode(row, skip_special_tokens=True).strip() for row in plainly[:, ids.shape[1] :]] != made


@pytest.mark.parametrize("arch", SEQUENTIAL)
def test_ablation_equals_orthogonalised_weights(arch):
    model, edited = tiny_model(arch)[0], tiny_model(arch)[0]
    vector = _vector()
    orthogonalise(edited, vector / vector.norm())
    ids = torch.arange(5, 25)[None]
    with torch.inference_mode(), intervene(engine_of(model), ablation(vector)):
        torch.testing.assert_close(model(ids).logits, edited(ids).logits, atol=3e-5, rtol=1e-5)
    with torch.inference_mode():
        assert (model(ids).logits - edited(ids).logits).abs().max() > 1e-2


def test_whatever_takes_an_engine_takes_it(chat, plain):
    """Activations, passes that enter at a layer."""
    ids, mask = left_pad([chat.encode(text) for text in INSTRUCTIONS])
    mine, bridge = engine_of(plain), chat.engine("cpu")
    streams = []
    for engine in (mine, bridge):
        with torch.inference_mode(), record_activations(engine, ["resid_pre"], [2], lambda x: x) as captured:
            engine(ids, attention_mask=mask)
        streams.append(captured["resid_pre", 2][mask.bool()])
    torch.testing.assert_close(*streams, atol=3e-5, rtol=1e-5)
    with torch.inference_mode():
        whole = mine(ids, attention_mask=mask, logits_to_keep=1)
    assert whole.shape[1] == 1
    if chat.alias != "falcon_h1":  # its blocks pass a cache on
        with torch.inference_mode(), skip_blocks(mine, 2, captured["resid_pre", 2]):
            torch.testing.assert_close(mine(ids, mask, logits_to_keep=1), whole, atol=3e-5, rtol=1e-5)


def test_the_first_look_leaves_a_model_as_it_was():
    """Its modes, its weights' gradients, and it is let go of."""
    model, _ = tiny_model("llama")
    model.train()
    model.model.layers[0].eval()
    modes = [module.training for module in model.modules()]
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    engine = engine_of(model)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    model.requires_grad_(True)
    with intervene(engine, ablation(_vector())):
        model(torch.arange(5, 12)[None]).logits.sum().backward()
    assert model.model.layers[0].mlp.down_proj.weight.grad.abs().max() > 0
    gone = weakref.ref(model)
    del model, engine
    gc.collect()
    assert gone() is None


def test_a_model_with_other_layers_than_its_configuration_is_refused():
    model, _ = tiny_model("llama")
    engine_of(model)
    model.model.layers = model.model.layers[:3]
    with pytest.raises(UserError, match=r"blocks\.3\.hook_resid_pre"):
        engine_of(model)
    model.config.num_hidden_layers = 3
    assert engine_of(model).n_layers == 3


def test_what_is_no_decoder_is_refused_by_name():
    t5 = AutoModelForSeq2SeqLM.from_config(
        T5Config(d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2, vocab_size=50)
    )
    config: Any = tiny_model("llama")[0].config
    headless = LlamaModel(config)
    with torch.device("meta"):
        blank = AutoModelForCausalLM.from_config(tiny_model("llama")[0].config)
    for model, words in (
        (t5, "T5ForConditionalGeneration is an encoder-decoder"),
        (headless, "LlamaModel has no language model's head; load it by AutoModelForCausalLM"),
        (blank, "LlamaForCausalLM has no weights yet"),
        (torch.nn.Linear(2, 2), "Linear is no Hugging Face model"),
        ("llama", "a str is none"),
    ):
        with pytest.raises(UserError, match=words):
            engine_of(model)


def test_an_architecture_that_is_not_known_is_refused_by_name():
    model, _ = tiny_model("llama")
    model.config.architectures = None
    model.__class__ = type("GrandNewForCausalLM", (type(model),), {})
    with pytest.raises(UserError, match="hook points of GrandNewForCausalLM are: TransformerLens has no such"):
        engine_of(model)
