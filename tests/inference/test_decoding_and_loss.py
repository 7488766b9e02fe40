"""Greedy decoding against Hugging Face's own, and the loss against plain float64."""

from __future__ import annotations

import pytest
import torch
from on_cpu import Loss
from transformers import GenerationConfig

from refusal_lightning.inference.decoding import StoppingRule, decode_greedily
from refusal_lightning.interventions import BASELINE, ablation, addition, intervene
from refusal_lightning.models import load_chat_model
from refusal_lightning.models.tokens import left_pad
from refusal_lightning.modules.loss import LossBatch, token_losses

INSTRUCTIONS = ["Name three birds", "What is the capital of France?", "Say hello to all the people in the garden."]


@pytest.fixture(scope="module", params=["llama", "gemma2", "qwen3", "gpt_neox"])
def chat(request, tiny_folder):
    return load_chat_model(str(tiny_folder(request.param)), refusal_tokens=["I"])


def _interventions(chat):
    vector = torch.randn(chat.d_model, generator=torch.Generator().manual_seed(3))
    return [BASELINE, ablation(vector), addition(vector, 1, 2.0)]


def test_decoding_equals_generate(chat):
    """Token for token, with rows that stop early, under every intervention."""
    ids, mask = left_pad([chat.encode(i) for i in INSTRUCTIONS])
    model = chat.engine("cpu").model
    for intervention in _interventions(chat):
        with torch.inference_mode(), intervene(chat.engine("cpu"), intervention):
            # Stop tokens that do occur: some row's third token, so rows leave the batch at different times.
            free = decode_greedily(model, ids, mask, StoppingRule((), 16))
            stops = {free[0][2], *chat.stop_ids}
            ours = decode_greedily(model, ids, mask, StoppingRule(stops, 16))
            settings = GenerationConfig(
                max_new_tokens=16, do_sample=False, eos_token_id=sorted(stops), pad_token_id=0, use_cache=True
            )
            theirs = model.generate(input_ids=ids, attention_mask=mask, generation_config=settings)
        expected = []
        for row in theirs[:, ids.shape[1] :].tolist():
            end = next((i for i, token in enumerate(row) if token in stops), len(row))
            expected.append(row[:end])
        assert ours == expected
        assert len(ours[0]) <= 2


def test_decoding_ignores_the_models_own_generation_settings(chat, monkeypatch):
    model = chat.engine("cpu").model
    ids, mask = left_pad([chat.encode(INSTRUCTIONS[0])])
    with torch.inference_mode():
        before = decode_greedily(model, ids, mask, StoppingRule((), 8))
        monkeypatch.setattr(model.generation_config, "repetition_penalty", 5.0)
        monkeypatch.setattr(model.generation_config, "max_length", 3)
        assert decode_greedily(model, ids, mask, StoppingRule((), 8)) == before


def test_loss_equals_float64(chat):
    prompts = [chat.encode(i) for i in INSTRUCTIONS]
    answers = [
        chat.tokenizer(t, add_special_tokens=False)["input_ids"] for t in ("A robin.", "Paris", "Hello, you all!")
    ]
    ids, mask = left_pad([p + a for p, a in zip(prompts, answers, strict=True)])
    width = ids.shape[1]
    scored = torch.arange(width) >= width - torch.tensor([[len(a)] for a in answers])
    for intervention in _interventions(chat):
        module = Loss(chat, intervention)
        with torch.inference_mode():
            sums = module.predict_step(LossBatch([0, 1, 2], ids, mask, scored))
        assert sums.n_tokens == [len(a) for a in answers]
        for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            tokens = torch.tensor([prompt + answer])
            with torch.inference_mode(), intervene(chat.engine("cpu"), intervention):
                logits = chat.engine("cpu")(tokens, attention_mask=torch.ones_like(tokens))
            log_probs = logits[0].double().log_softmax(-1)
            total = -sum(log_probs[len(prompt) + i - 1, token] for i, token in enumerate(answer)).item()
            assert sums.loss[row] == pytest.approx(total, abs=1e-4)


def test_token_losses_by_hand():
    logits = torch.log(torch.tensor([[[0.5, 0.25, 0.25], [0.1, 0.2, 0.7], [1 / 3, 1 / 3, 1 / 3]]]))
    losses = token_losses(logits, torch.tensor([[0, 1, 2]]))
    expected = -torch.log(torch.tensor([[0.25, 0.7]], dtype=torch.float64))
    torch.testing.assert_close(losses, expected, atol=1e-6, rtol=0)
    assert losses.dtype == torch.float64
