"""The tiny models are what the other tests take them for: real architectures that boot, and that do something."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from tiny_models import ARCHITECTURES, N_LAYERS, N_POSITIONS, tiny_model, tiny_tokenizer
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM, AutoTokenizer, BatchEncoding

INSTRUCTIONS = ("Tell me a joke about the dogs that live in the garden of the king of France.", "What?")


def prompts(tokenizer) -> list[str]:
    chats = [[{"role": "user", "content": text}] for text in INSTRUCTIONS]
    return [tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) for chat in chats]


def batch(tokenizer) -> BatchEncoding:
    return tokenizer(prompts(tokenizer), return_tensors="pt", padding=True, add_special_tokens=False)


def positions(mask: torch.Tensor) -> torch.Tensor:
    return (mask.cumsum(-1) - 1).clamp(min=0)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_saved_folder_holds_the_same_model(arch: str, tiny_folder: Callable[[str], Path]):
    model, tokenizer = tiny_model(arch)
    loaded = AutoModelForCausalLM.from_pretrained(tiny_folder(arch))
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, loaded.state_dict()[name]), name
    assert loaded.generation_config.eos_token_id == model.generation_config.eos_token_id
    text = prompts(tokenizer)[0]
    assert AutoTokenizer.from_pretrained(tiny_folder(arch))(text)["input_ids"] == tokenizer(text)["input_ids"]


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_bridge_boots_and_gives_the_logits_of_hugging_face(arch: str, tiny_folder: Callable[[str], Path]):
    model, tokenizer = tiny_model(arch)
    inputs = batch(tokenizer)
    bridge = TransformerBridge.boot_transformers(str(tiny_folder(arch)), device="cpu", dtype=torch.float32)
    with torch.inference_mode():
        expected = model(**inputs, position_ids=positions(inputs["attention_mask"])).logits[:, -1]
        found = bridge(inputs["input_ids"], attention_mask=inputs["attention_mask"])[:, -1]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_block_and_the_prompt_matter(arch: str):
    model, tokenizer = tiny_model(arch)
    inputs = batch(tokenizer)
    with torch.inference_mode():
        states = model(
            **inputs, position_ids=positions(inputs["attention_mask"]), output_hidden_states=True
        ).hidden_states
        logits = model(**inputs, position_ids=positions(inputs["attention_mask"])).logits[:, -1]
    assert len(states) == N_LAYERS + 1
    for before, after in pairwise(states):
        change = (after - before)[:, -1].norm(dim=-1) / before[:, -1].norm(dim=-1)
        assert (change > 0.3).all()
    assert logits.std() > 0.5  # far from a uniform next token
    assert (logits[0] - logits[1]).abs().max() > 1.0
    assert logits.softmax(-1).max() < 0.9  # and far from a certain one


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_norm_weights_and_biases_are_random(arch: str):
    model, _ = tiny_model(arch)
    vectors = {name: weight for name, weight in model.named_parameters() if weight.dim() == 1}
    assert vectors
    for name, weight in vectors.items():
        assert weight.std() > 0.02, name


def test_a_seed_gives_the_same_weights_and_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    one, _ = tiny_model("llama", seed=1)
    assert torch.rand(1) == expected
    same, other = tiny_model("llama", seed=1)[0], tiny_model("llama", seed=2)[0]
    assert torch.equal(one.lm_head.weight, same.lm_head.weight)
    assert not torch.equal(one.lm_head.weight, other.lm_head.weight)


def test_windowed_architectures_attend_beyond_and_within_the_window():
    """Gemma 2 and 3 have layers of both kinds, and the long prompt is longer than the window."""
    for arch in ("gemma2", "gemma3_text"):
        config = tiny_model(arch)[0].config
        assert set(config.layer_types) == {"sliding_attention", "full_attention"}
        assert len(tiny_tokenizer()(INSTRUCTIONS[0])["input_ids"]) > config.sliding_window


def test_template_has_one_beginning_and_the_stated_end():
    tokenizer = tiny_tokenizer()
    ends = [tokenizer(text, add_special_tokens=False)["input_ids"][-N_POSITIONS:] for text in prompts(tokenizer)]
    assert ends[0] == ends[1]
    assert tokenizer.convert_ids_to_tokens(ends[0]) == ["<|end|>", "Ċ", "<|assistant|>", "Ċ"]
    for text in prompts(tokenizer):
        plain, doubled = tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer(text)["input_ids"]
        assert plain.count(tokenizer.bos_token_id) == 1
        assert doubled == [tokenizer.bos_token_id, *plain]  # the trap that real tokenizers set


def test_template_takes_a_system_message():
    tokenizer = tiny_tokenizer()
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
    text = tokenizer.apply_chat_template(chat, tokenize=False)
    assert text == "<s><|system|>\nBe brief.<|end|>\n<|user|>\nWhy?<|end|>\n"


def test_tokenizer_keeps_any_text():
    tokenizer = tiny_tokenizer()
    for text in ("plain words", "naïve – 雨 🙂", " two  spaces\n\nand lines\t"):
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text
