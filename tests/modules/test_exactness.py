"""DESIGN's rules of exactness 1, 2, 3 and 5, on tiny random models of real architectures."""

from __future__ import annotations

import pytest
import torch
from orthogonalise import orthogonalise
from tiny_models import ARCHITECTURES

from refusal_lightning.inference.decoding import StoppingRule, decode_greedily
from refusal_lightning.interventions import (
    BASELINE,
    ablation,
    addition,
    intervene,
    record_activations,
    skip_blocks,
)
from refusal_lightning.models import ChatModel, load_chat_model
from refusal_lightning.models.tokens import left_pad

INSTRUCTIONS = (
    "Name three birds",
    "How do I keep the plants in my garden alive when I travel for two weeks in the summer?",
    "Say hello.",
    "What is the capital of France, and why?",
)
POST_NORM = ("gemma2", "gemma3_text")


@pytest.fixture(scope="module", params=ARCHITECTURES)
def chat(request, tiny_folder) -> ChatModel:
    return load_chat_model(str(tiny_folder(request.param)), refusal_tokens=["I"], alias=request.param)


@pytest.fixture(scope="module")
def prompts(chat) -> list[list[int]]:
    return [chat.encode(instruction) for instruction in INSTRUCTIONS]


def _direction(chat: ChatModel, seed: int = 1) -> torch.Tensor:
    return torch.randn(chat.d_model, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def _points(chat: ChatModel) -> tuple[str, ...]:
    """The residual stream's hook points; where attention and MLP run in parallel there is no middle."""
    return ("resid_pre", "resid_post") if chat.alias == "gpt_neox" else ("resid_pre", "resid_mid", "resid_post")


def _run(chat: ChatModel, prompts, points=None, intervention=BASELINE):
    """Last-position logits and captured hook points at the eoi positions."""
    points = _points(chat) if points is None else points
    engine = chat.engine("cpu")
    ids, mask = left_pad(prompts)
    n = chat.n_positions
    with (
        torch.inference_mode(),
        intervene(engine, intervention),
        record_activations(engine, points, range(chat.n_layers), lambda x: x[:, -n:]) as captured,
    ):
        logits = engine(ids, attention_mask=mask, logits_to_keep=1)[:, -1]
    return logits, captured


@pytest.mark.parametrize("name", ["baseline", "ablation", "actadd"])
def test_rule_1_padding_changes_nothing(chat, prompts, name):
    vector = _direction(chat)
    intervention = {"baseline": BASELINE, "ablation": ablation(vector), "actadd": addition(vector, 1, 1.0)}[name]
    together, activations = _run(chat, prompts, intervention=intervention)
    for row, prompt in enumerate(prompts):
        alone, activations_alone = _run(chat, [prompt], intervention=intervention)
        torch.testing.assert_close(together[row], alone[0], atol=2e-5, rtol=1e-5)
        for key, value in activations.items():
            torch.testing.assert_close(value[row], activations_alone[key][0], atol=2e-5, rtol=1e-5)


def test_rule_1_greedy_text_does_not_depend_on_the_batch(chat, prompts):
    model = chat.engine("cpu").model
    vector = _direction(chat)
    with torch.inference_mode(), intervene(chat.engine("cpu"), ablation(vector)):
        together = decode_greedily(model, *left_pad(prompts), StoppingRule(set(chat.stop_ids), 12))
        alone = [
            decode_greedily(model, *left_pad([prompt]), StoppingRule(set(chat.stop_ids), 12))[0] for prompt in prompts
        ]
    assert together == alone


def test_the_mask_matters(chat, prompts):
    """What rule 1 guards against shows on these models: without the mask the padded row is another one."""
    ids, mask = left_pad(prompts)
    engine = chat.engine("cpu")
    with torch.inference_mode():
        right = engine(ids, attention_mask=mask, logits_to_keep=1)[:, -1]
        wrong = engine(ids, logits_to_keep=1)[:, -1]
    shortest = min(range(len(prompts)), key=lambda i: len(prompts[i]))
    assert (right[shortest] - wrong[shortest]).abs().max() > 1e-2


def test_rule_2_one_beginning_of_sequence(chat, prompts):
    for prompt in prompts:
        assert prompt.count(chat.tokenizer.bos_token_id) == 1
        assert prompt[0] == chat.tokenizer.bos_token_id
        assert prompt[-chat.n_positions :] == chat.eoi_ids
    assert chat.tokenizer.decode(chat.eoi_ids) == "<|end|>\n<|assistant|>\n"


def test_rule_3_ablated_streams_are_orthogonal(chat, prompts):
    direction = _direction(chat)
    unit = (direction / direction.norm()).float()
    _, before = _run(chat, prompts)
    _, after = _run(chat, prompts, intervention=ablation(direction))
    assert max((x @ unit).abs().max() for x in before.values()) > 0.1
    for key, x in after.items():
        scale = x.norm(dim=-1).max()
        assert (x @ unit).abs().max() <= 1e-5 * scale, key


def test_rule_3_final_residual_is_orthogonal(chat, prompts):
    direction = _direction(chat)
    unit = (direction / direction.norm()).float()
    engine = chat.engine("cpu")
    seen = []
    ids, mask = left_pad(prompts)
    see = [("ln_final.hook_in", lambda x, hook: seen.append(x.clone()))]
    with torch.inference_mode(), intervene(engine, ablation(direction)), engine.hooks(fwd_hooks=see):
        engine(ids, attention_mask=mask)
    (final,) = seen
    assert (final @ unit).abs().max() <= 1e-5 * final.norm(dim=-1).max()


def test_rule_3_equalsorthogonalised_weights(chat, prompts, tiny_folder):
    """Ablation at every write is the same as weights that cannot write along the direction (paper, section 4.1).

    With post-norms it is not: they rescale what the weights wrote, and bring the direction back.
    """
    from transformers import AutoModelForCausalLM

    direction = _direction(chat)
    ablated, _ = _run(chat, prompts[:1], points=(), intervention=ablation(direction))
    model = AutoModelForCausalLM.from_pretrained(tiny_folder(chat.alias), dtype=torch.float32)
    orthogonalise(model, direction / direction.norm())
    with torch.inference_mode():
        oracle = model(torch.tensor(prompts[:1])).logits[:, -1]
    baseline, _ = _run(chat, prompts[:1], points=())
    effect = (ablated - baseline).abs().max()
    error = (ablated - oracle).abs().max()
    assert effect > 1e-2
    if chat.alias in POST_NORM:
        assert error > 1e-3
    else:
        assert error <= 2e-5


def test_rule_3_in_float64(tiny_folder):
    """GPT-NeoX computes in float64 throughout, so equality holds to the last digits."""
    from transformers import AutoModelForCausalLM

    chat = load_chat_model(str(tiny_folder("gpt_neox")), refusal_tokens=["I"], dtype="float64")
    prompt = [chat.encode(INSTRUCTIONS[1])]
    direction = _direction(chat)
    ablated, _ = _run(chat, prompt, points=(), intervention=ablation(direction))
    model = AutoModelForCausalLM.from_pretrained(tiny_folder("gpt_neox"), dtype=torch.float64)
    orthogonalise(model, direction / direction.norm())
    with torch.inference_mode():
        oracle = model(torch.tensor(prompt)).logits[:, -1]
    # The unit direction is taken with the paper's norm + 1e-8, hence 1e-8 and not 1e-15.
    torch.testing.assert_close(ablated, oracle, atol=1e-7, rtol=0)


def test_writes_add_up(chat, prompts):
    _, captured = _run(chat, prompts, points=("resid_pre", "attn_out", "mlp_out", "resid_post"))
    for layer in range(chat.n_layers):
        total = captured["resid_pre", layer] + captured["attn_out", layer] + captured["mlp_out", layer]
        torch.testing.assert_close(total, captured["resid_post", layer], atol=1e-5, rtol=1e-5)


def test_rule_5_hooks_leave_nothing_behind(chat, prompts):
    engine = chat.engine("cpu")
    before, _ = _run(chat, prompts, points=())
    direction = _direction(chat)
    for intervention in (ablation(direction), addition(direction, 2, 3.0)):
        with pytest.raises(RuntimeError, match="planted"), intervene(engine, intervention):
            raise RuntimeError("planted")
    with pytest.raises(RuntimeError, match="planted"), record_activations(engine, _points(chat), [0], lambda x: x):
        raise RuntimeError("planted")
    with pytest.raises(RuntimeError, match="planted"), skip_blocks(engine, 2, torch.zeros(1, 1, chat.d_model)):
        raise RuntimeError("planted")
    assert engine.count_hooks() == 0
    after, _ = _run(chat, prompts, points=())
    assert torch.equal(before, after)


def test_rule_5_hooks_are_functional(chat, prompts):
    """What was captured before an intervention acts is not changed by it."""
    engine = chat.engine("cpu")
    ids, mask = left_pad(prompts)
    seen = {}

    def keep(x, hook):
        seen["live"], seen["copy"] = x, x.clone()

    for intervention in (ablation(_direction(chat)), addition(_direction(chat), 0, 1.0)):
        first = engine.hooks(fwd_hooks=[("blocks.0.hook_resid_pre", keep)])
        with torch.inference_mode(), first, intervene(engine, intervention):
            engine(ids, attention_mask=mask)
        assert torch.equal(seen["live"], seen["copy"])


def test_addition_happens_once_per_pass(chat, prompts):
    """Hooks that pile up would make the coefficient grow from batch to batch."""
    vector = _direction(chat)
    first, captured = _run(chat, prompts, points=("resid_pre",), intervention=addition(vector, 1, 2.0))
    second, _ = _run(chat, prompts, points=("resid_pre",), intervention=addition(vector, 1, 2.0))
    assert torch.equal(first, second)
    _, before = _run(chat, prompts, points=("resid_pre",))
    torch.testing.assert_close(
        captured["resid_pre", 1] - before["resid_pre", 1],
        (2.0 * vector).float().expand_as(before["resid_pre", 1]),
        atol=1e-4,
        rtol=1e-5,
    )


@pytest.mark.parametrize("layer", [0, 1, 3])
def test_a_pass_from_the_middle_equals_a_whole_one(chat, prompts, layer):
    engine = chat.engine("cpu")
    ids, mask = left_pad(prompts)
    vector = _direction(chat)
    with torch.inference_mode():
        with record_activations(engine, ["resid_pre"], [layer], lambda x: x) as captured:
            engine(ids, attention_mask=mask)
        with intervene(engine, addition(vector, layer, 1.0)):
            whole = engine(ids, attention_mask=mask, logits_to_keep=1)
        with skip_blocks(engine, layer, captured["resid_pre", layer]), intervene(engine, addition(vector, layer, 1.0)):
            partial = engine(ids, attention_mask=mask, logits_to_keep=1)
    assert torch.equal(whole, partial)
