"""Architectures on which a shortcut could go wrong unseen: what blocks give back, positions, windows, a third write.

The oracle of scores and answers is one prompt at a time, unpadded, whole, without a cache.
"""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from on_cpu import SYSTEM, Generation, Scores, random_directions, scored
from tiny_models import UNUSUAL_ARCHITECTURES

from refusal_lightning.directions.metrics.kl import kl_scores
from refusal_lightning.directions.metrics.refusal_score import refusal_scores
from refusal_lightning.directions.selection.schedule import ScoreTask
from refusal_lightning.inference import prefix_cache, shortcuts
from refusal_lightning.interventions import (
    BASELINE,
    Intervention,
    RowInterventions,
    ablation,
    addition,
    intervene,
    record_activations,
)
from refusal_lightning.interventions.intervention import at_every_write, project_out, unit_direction
from refusal_lightning.models import ChatModel, load_chat_model
from refusal_lightning.models.tokens import left_pad, token_positions
from refusal_lightning.modules import generation
from refusal_lightning.modules.generation import GenerationBatch

INSTRUCTIONS = (
    "Name three birds",
    "Say hello to all the people in the garden.",
    "Name three cities",
    "What is the capital of France, and why?",
)
PLACES = {"bypass": ((-2, 1), (-1, 3)), "kl": ((-2, 1), (-1, 3)), "induce": ((-2, 3), (-1, 3))}
NEW_TOKENS = 6


@pytest.fixture(scope="module", params=UNUSUAL_ARCHITECTURES)
def chat(request, tiny_folder) -> ChatModel:
    return load_chat_model(str(tiny_folder(request.param)), refusal_tokens=["I"], alias=request.param)


@pytest.fixture(scope="module")
def prompts(chat) -> list[list[int]]:
    return [chat.encode(f"{SYSTEM} {instruction}") for instruction in INSTRUCTIONS]


def _logits(chat: ChatModel, prompt: list[int], intervention: Intervention = BASELINE) -> torch.Tensor:
    engine = chat.engine("cpu")
    with torch.inference_mode(), intervene(engine, intervention):
        return engine(torch.tensor([prompt]))[:, -1].double()


@pytest.mark.parametrize("kind", ["bypass", "induce", "kl"])
@pytest.mark.parametrize("share", [True, False])
def test_scores_equal_plain_passes(chat, prompts, kind, share, monkeypatch):
    if not share:
        monkeypatch.setattr(prefix_cache, "WORTH_SHARING", 1000)
    directions = random_directions(chat)
    baseline = torch.cat([_logits(chat, prompt) for prompt in prompts])
    module = Scores(chat, directions, scored(prompts, baseline), kind, 4)
    with torch.inference_mode():
        module.on_predict_start()
        result = module.predict_step(ScoreTask(kind, PLACES[kind]))
    for (position, layer), row in zip(PLACES[kind], result.scores, strict=True):
        vector = directions[position, layer]
        change = addition(vector, layer, 1.0) if kind == "induce" else ablation(vector)
        after = torch.cat([_logits(chat, prompt, change) for prompt in prompts])
        plain = kl_scores(baseline, after) if kind == "kl" else refusal_scores(after, chat.refusal_ids)
        np.testing.assert_allclose(row, plain, atol=2e-5, rtol=1e-4)


def test_answers_equal_decoding_without_a_cache(chat, prompts):
    vector = random_directions(chat)[-1, 1]
    interventions = [BASELINE, ablation(vector), addition(vector, 1, 1.0)]
    rows = [(prompt, number) for number in range(3) for prompt in prompts]
    expected = []
    for prompt, number in rows:
        read = list(prompt)
        for _ in range(NEW_TOKENS):
            read.append(int(_logits(chat, read, interventions[number]).argmax()))
            if read[-1] in chat.stop_ids:
                break
        expected.append(chat.tokenizer.decode(read[len(prompt) :], skip_special_tokens=True).strip())
    module = Generation(chat, interventions, NEW_TOKENS, 5)
    batch = GenerationBatch([""] * len(rows), [p for p, _ in rows], [""] * len(rows), [n for _, n in rows])
    with torch.inference_mode():
        assert module.predict_step(batch).texts == expected


@pytest.mark.parametrize("apart", [False, True])
def test_answers_end_at_the_context(tiny_folder, monkeypatch, apart):
    """GPT-2 has no position beyond it. What is read fills it, and one more token can be told."""
    chat = replace(load_chat_model(str(tiny_folder("gpt2")), refusal_tokens=["I"]), stop_ids=[])
    monkeypatch.setattr(generation, "can_refill", lambda config: not apart)
    assert chat.context == 512
    prompts = [[7 + i % 300 for i in range(length)] for length in (508, 505)]
    module = Generation(chat, [BASELINE], 20, 2)
    with torch.inference_mode():
        answers = module.predict_step(GenerationBatch(["", ""], prompts, ["", ""], [0, 0]))
    assert answers.n_tokens == [5, 8]


def test_ablated_streams_are_orthogonal(chat, prompts):
    """By the hooks of the bridge and by those of the decoder, where they are others; a Mamba branch writes too."""
    engine = chat.engine("cpu")
    assert engine.facts.adds_up == (chat.alias != "falcon_h1")
    vector = random_directions(chat)[-1, 1]
    unit = (vector / vector.norm()).float()
    ids, mask = left_pad(prompts)
    points = [
        point for point in ("resid_pre", "resid_mid", "resid_post") if f"blocks.0.hook_{point}" in engine.hook_names
    ]
    with (
        torch.inference_mode(),
        intervene(engine, ablation(vector)),
        record_activations(engine, points, range(chat.n_layers), lambda x: x) as captured,
    ):
        expected = engine(ids, attention_mask=mask)[:, -1]
    for key, stream in captured.items():
        assert (stream @ unit).abs().max() <= 1e-5 * stream.norm(dim=-1).max(), key
    decoder = chat.fast_engine("cpu")
    with torch.inference_mode(), intervene(decoder, ablation(vector)):
        positions = token_positions(mask)
        logits = decoder.model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False).logits
    torch.testing.assert_close(logits[:, -1], expected, atol=2e-5, rtol=1e-4)


def test_ablated_from_a_layer_on_streams_are_orthogonal_from_there(chat, prompts):
    """Alone, and as one row's intervention beside an addition at that layer; a Mamba branch writes too."""
    engine, vector = chat.engine("cpu"), random_directions(chat)[-1, 1]
    unit = (vector / vector.norm()).float()
    late = at_every_write("late", project_out(unit_direction(vector)), first_layer=1)
    rows = RowInterventions([BASELINE, late, addition(vector, 1, 1.0)], "cpu", torch.float32)
    rows.use([1, 0])
    ids, mask = left_pad(prompts[:2])
    for intervention, own in ((late, slice(None)), (rows.intervention(), slice(0, 1))):
        with (
            torch.inference_mode(),
            intervene(engine, intervention),
            record_activations(engine, ["resid_pre", "resid_post"], range(chat.n_layers), lambda x: x) as captured,
        ):
            engine(ids, attention_mask=mask)
        for (point, layer), stream in captured.items():
            along = (stream @ unit).abs() / stream.norm(dim=-1).clamp(min=1e-9)
            if layer >= 1:
                assert along[own].max() <= 1e-5, (point, layer)
            else:
                assert along[own].max() > 1e-3, (point, layer)


def test_a_shortcut_that_differs_is_not_taken(tiny_folder, monkeypatch, caplog):
    """A pass that goes on from other keys than its own, and one that enters with another stream."""
    chat = load_chat_model(str(tiny_folder("llama")), refusal_tokens=["I"])
    prompts = [chat.encode(f"{SYSTEM} {instruction}") for instruction in INSTRUCTIONS]
    found = shortcuts.exact_shortcuts(chat.engine("cpu"), prompts, "cpu")
    assert found == shortcuts.Shortcuts(shares=True, skips=True)
    chat.release()
    real = prefix_cache.prefix_pass
    monkeypatch.setattr(shortcuts, "prefix_pass", lambda *args: [(k + 0.1, v) for k, v in real(*args)])
    caplog.set_level(logging.INFO, "refusal_lightning")
    found = shortcuts.exact_shortcuts(chat.engine("cpu"), prompts, "cpu")
    assert not found.shares and found.skips
    chat.release()
    monkeypatch.undo()
    skip = shortcuts.skip_blocks
    monkeypatch.setattr(shortcuts, "skip_blocks", lambda engine, layer, start: skip(engine, layer, start[:1] * 0.9))
    found = shortcuts.exact_shortcuts(chat.engine("cpu"), prompts, "cpu")
    assert found.shares and not found.skips
    assert [text.split(":")[0] for text in caplog.messages] == ["prompts are run whole", "induce scores run all blocks"]
