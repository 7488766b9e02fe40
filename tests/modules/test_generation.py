"""The text a prompt gets does not depend on the batch it was in: against Hugging Face's generate, one prompt at a time.

The oracle is a fresh Hugging Face model with hooks written out here, the paper's way.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from on_cpu import Generation
from tiny_models import ARCHITECTURES
from transformers import AutoModelForCausalLM, GenerationConfig

import refusal_lightning.inference.kv_cache as slot_cache
import refusal_lightning.modules.generation as generation
from refusal_lightning.inference.continuous_batching import Row, decode_rows
from refusal_lightning.inference.decoding import StoppingRule, decode_batch
from refusal_lightning.inference.prefix_cache import shared_length
from refusal_lightning.inference.sampling import Sampling
from refusal_lightning.interventions import BASELINE, Intervention, ablation, addition
from refusal_lightning.models import ChatModel, load_chat_model
from refusal_lightning.models.engines.protocol import Engine
from refusal_lightning.models.tokens import prompt_hash
from refusal_lightning.modules.generation import GenerationBatch

INSTRUCTIONS = (
    "Name three birds",
    "What is the capital of France?",
    "Say hello to all the people in the garden.",
    "Why?",
    "Tell me a joke about the dogs that live in the garden of the king of France and of all the people he knows.",
    "Write a list",
    "Explain the vector of the mean",
)
NEW_TOKENS = 24
LAYER, COEFFICIENT = 1, 2.0
POST_NORM = {"gemma2", "gemma3_text"}


@dataclass
class Case:
    """A tiny model with what the oracle answers under baseline, ablation and addition, prompts running fastest."""

    chat: ChatModel
    interventions: list[Intervention]
    prompts: list[list[int]]
    stop_ids: set[int]
    expected: list[list[int]]
    smallest_gap: float

    @property
    def rows(self) -> list[Row]:
        return [Row(prompt, number) for number in range(3) for prompt in self.prompts]


@pytest.fixture(scope="module", params=ARCHITECTURES)
def case(request, tiny_folder) -> Case:
    return _case(request.param, tiny_folder)


@pytest.fixture(scope="module")
def llama(tiny_folder) -> Case:
    return _case("llama", tiny_folder)


def _case(arch, tiny_folder) -> Case:
    folder = tiny_folder(arch)
    chat = load_chat_model(str(folder), refusal_tokens=["I"], alias=arch)
    vector = torch.randn(chat.d_model, generator=torch.Generator().manual_seed(3))
    prompts = [chat.encode(instruction) for instruction in INSTRUCTIONS]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    free, gaps = [], []
    for name in ("baseline", "ablation", "actadd"):
        for prompt in prompts:
            answer, gap = _oracle(model, arch, name, vector, prompt)
            free.append(answer)
            gaps.append(gap)
    # Stop tokens that do occur, so that answers end at many lengths, some at once.
    common = Counter(token for answer in free for token in answer[3:]).most_common(3)
    stops = {token for token, _ in common} | set(chat.stop_ids)
    expected = [a[: next((i for i, token in enumerate(a) if token in stops), len(a))] for a in free]
    interventions = [BASELINE, ablation(vector), addition(vector, LAYER, COEFFICIENT)]
    return Case(chat, interventions, prompts, stops, expected, min(gaps))


def _oracle(model: Any, arch: str, name: str, vector: torch.Tensor, prompt: list[int]) -> tuple[list[int], float]:
    """Greedy answer of ``generate``, and the smallest distance between the best two logits on its way."""
    unit = vector / vector.norm()
    blocks = model.gpt_neox.layers if arch == "gpt_neox" else model.model.layers

    def project(x):
        return x - (x @ unit).unsqueeze(-1) * unit

    def on_output(module, args, out):
        return (project(out[0]), *out[1:]) if isinstance(out, tuple) else project(out)

    handles = []
    if name == "actadd":
        add = lambda module, args: (args[0] + COEFFICIENT * vector, *args[1:])  # noqa: E731
        handles.append(blocks[LAYER].register_forward_pre_hook(add))
    if name == "ablation":
        for block in blocks:
            attention = block.attention if arch == "gpt_neox" else block.self_attn
            writers = (attention, block.mlp)
            if arch in POST_NORM:
                writers = (block.post_attention_layernorm, block.post_feedforward_layernorm)
            handles.append(block.register_forward_pre_hook(lambda m, args: (project(args[0]), *args[1:])))
            handles += [writer.register_forward_hook(on_output) for writer in writers]
    settings = GenerationConfig(
        max_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=0, output_logits=True, return_dict_in_generate=True
    )
    settings.eos_token_id = None
    kept, model.generation_config = model.generation_config, GenerationConfig()
    try:
        with torch.inference_mode():
            out = model.generate(input_ids=torch.tensor([prompt]), generation_config=settings)
    finally:
        model.generation_config = kept
        for handle in handles:
            handle.remove()
    best = torch.stack(out.logits)[:, 0].topk(2).values
    return out.sequences[0, len(prompt) :].tolist(), float((best[:, 0] - best[:, 1]).min())


@pytest.mark.parametrize("n_slots", [1, 3, 8, 100])
def test_the_tokens_of_generate_in_any_batch(case, n_slots):
    """Rows under three interventions share a batch, come and go; windows are shorter than most rows."""
    assert case.smallest_gap > 1e-4  # far above rounding, so there is no tie to excuse a difference
    lengths = [len(answer) for answer in case.expected]
    assert min(lengths) <= 2
    assert len(set(lengths)) > 5
    made = decode_rows(
        case.chat.fast_engine("cpu"), case.rows, case.interventions, StoppingRule(case.stop_ids, NEW_TOKENS), n_slots
    )  # fmt: skip
    assert made == case.expected


def test_a_shared_beginning_is_used_where_it_is_exact(case):
    assert shared_length(case.prompts) == 0  # the tiny template's beginning is too short
    long = [[1, 2, 3, 4, 5, 6, *prompt] for prompt in case.prompts]
    assert shared_length(long) > 6
    model = case.chat.fast_engine("cpu")
    rows = [Row(prompt, number) for number in range(3) for prompt in long]
    together = decode_rows(model, rows, case.interventions, StoppingRule(case.stop_ids, NEW_TOKENS), 4)
    alone = [
        decode_rows(model, [row], case.interventions, StoppingRule(case.stop_ids, NEW_TOKENS), 1)[0] for row in rows
    ]
    assert together == alone


def test_rows_move_back_when_the_columns_are_used_up(llama, monkeypatch):
    monkeypatch.setattr(slot_cache, "SLACK", 1)
    moves = []
    move = slot_cache.SlotCache._move_back

    def counted(cache: slot_cache.SlotCache) -> None:
        moves.append(cache.window.end)
        move(cache)

    monkeypatch.setattr(slot_cache.SlotCache, "_move_back", counted)
    # Enough rows of several lengths that the slots are busy throughout, so columns are used up.
    rows = 3 * llama.rows
    made = decode_rows(
        llama.chat.fast_engine("cpu"), rows, llama.interventions, StoppingRule(llama.stop_ids, NEW_TOKENS), 5
    )
    assert made == 3 * llama.expected
    assert moves


def test_one_token_answers(llama):
    made = decode_rows(
        llama.chat.fast_engine("cpu"), llama.rows, llama.interventions, StoppingRule(llama.stop_ids, 1), 4
    )
    assert made == [answer[:1] for answer in llama.expected]


def test_baseline_alone_has_no_hooks(llama):
    rows = [Row(prompt, 0) for prompt in llama.prompts]
    made = decode_rows(llama.chat.fast_engine("cpu"), rows, [BASELINE], StoppingRule(llama.stop_ids, NEW_TOKENS), 3)
    assert made == llama.expected[: len(rows)]


def test_interventions_by_hooks_alone_share_a_batch_too(case):
    """The same tokens as where the vectors are given."""
    idle = Intervention("idle", lambda n_layers: [("blocks.0.hook_resid_pre", lambda x, hook: x)])
    by_hooks = [idle, replace(case.interventions[1], ablated=None), replace(case.interventions[2], added=None)]
    decoder = case.chat.fast_engine("cpu")
    for some in (
        by_hooks,
        [BASELINE, by_hooks[1], case.interventions[2]],
        [BASELINE, case.interventions[1], by_hooks[2]],
    ):
        assert decode_rows(decoder, case.rows, some, StoppingRule(case.stop_ids, NEW_TOKENS), 4) == case.expected


class _OnCpu(Generation):
    """The module without a Trainer around it, with the token ids that it found."""

    def _decode(self, engine: Engine, rows: list[Row]) -> list[list[int]]:
        self.seen = super()._decode(engine, rows)
        return self.seen

    def answer(self, case: Case) -> list[list[int]]:
        """Token ids in place of texts."""
        self.model = replace(self.model, stop_ids=sorted(case.stop_ids))
        rows = case.rows
        batch = GenerationBatch(
            list(range(len(rows))),
            [list(row.token_ids) for row in rows],
            [prompt_hash(row.token_ids) for row in rows],
            [row.intervention for row in rows],
        )
        made = self.predict_step(batch)
        seen = self.seen
        assert made.names == batch.names
        assert made.n_tokens == [len(ids) for ids in seen]
        assert made.texts == [self.model.tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in seen]
        return seen


def test_where_rows_cannot_come_and_go_they_are_decoded_apart(llama, monkeypatch):
    monkeypatch.setattr(generation, "can_refill", lambda config: False)
    monkeypatch.setattr(generation, "decode_rows", None)
    assert _OnCpu(llama.chat, llama.interventions, NEW_TOKENS, 3).answer(llama) == llama.expected


def test_every_tiny_architecture_can_refill_and_a_chunked_one_cannot(case):
    model = case.chat.fast_engine("cpu").model
    assert generation.can_refill(model.config)
    kinds = getattr(model.config, "layer_types", None)
    model.config.layer_types = ["chunked_attention"] * case.chat.n_layers
    model.config.attention_chunk_size = 8
    try:
        assert not generation.can_refill(model.config)
    finally:
        if kinds is None:
            del model.config.layer_types
        else:
            model.config.layer_types = kinds


def test_out_of_memory_halves_the_batch_and_says_so(llama, monkeypatch, caplog):
    tried = []

    def decode(model, rows, interventions, stopping, n_slots, *others):
        tried.append(n_slots)
        if n_slots > 3:
            raise torch.OutOfMemoryError("planted")
        return decode_rows(model, rows, interventions, stopping, n_slots, *others)

    monkeypatch.setattr(generation, "decode_rows", decode)
    caplog.set_level(logging.INFO, "refusal_lightning")
    module = _OnCpu(llama.chat, llama.interventions, NEW_TOKENS, 13)
    assert module.answer(llama) == llama.expected
    assert module.answer(llama) == llama.expected
    assert tried == [13, 6, 3, 3]
    told = [text for text in caplog.messages if "out of GPU memory" in text]
    assert [line.split(",")[1] for line in told] == [
        f" going on with {n} rows at a time (evaluate.batch_size)" for n in (6, 3)
    ]
    small = _OnCpu(llama.chat, llama.interventions, NEW_TOKENS, 1)

    def never(*args: Any) -> None:
        raise torch.OutOfMemoryError("planted")

    monkeypatch.setattr(generation, "decode_rows", never)
    with pytest.raises(torch.OutOfMemoryError):
        small.answer(llama)


def test_out_of_memory_where_rows_are_decoded_apart(llama, monkeypatch):
    monkeypatch.setattr(generation, "can_refill", lambda config: False)
    tried = []

    def decode(model, ids, *others):
        tried.append(len(ids))
        if len(ids) > 2:
            raise torch.OutOfMemoryError("planted")
        return decode_batch(model, ids, *others)

    monkeypatch.setattr(generation, "decode_batch", decode)
    module = _OnCpu(llama.chat, llama.interventions, NEW_TOKENS, 5)
    assert module.answer(llama) == llama.expected
    assert max(tried) > 2
    assert module.n_slots == 2


@pytest.mark.parametrize("refill", [True, False])
def test_sampled_texts_do_not_depend_on_the_batch_either(llama, monkeypatch, refill):
    expected = _OnCpu(llama.chat, llama.interventions, NEW_TOKENS, 1, Sampling(1.0, 0.9, 7)).answer(llama)
    if not refill:
        monkeypatch.setattr(generation, "can_refill", lambda config: False)
    for n_slots in (3, 100):
        module = _OnCpu(llama.chat, llama.interventions, NEW_TOKENS, n_slots, Sampling(1.0, 0.9, 7))
        assert module.answer(llama) == expected
    assert expected != llama.expected
    other = _OnCpu(llama.chat, llama.interventions, NEW_TOKENS, 3, Sampling(1.0, 0.9, 8)).answer(llama)
    assert other != expected
    cold = _OnCpu(llama.chat, llama.interventions, NEW_TOKENS, 3, Sampling(1e-6, 1.0, 8)).answer(llama)
    assert cold == llama.expected
