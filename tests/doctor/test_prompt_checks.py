"""The checks of template and tokens, each with the faults it is for."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from patients import material, save_with_template
from tiny_models import CHAT_TEMPLATE, tiny_tokenizer

from refusal_lightning.doctor import CheckContext, Finding
from refusal_lightning.doctor import thinking as thinking_check
from refusal_lightning.doctor.registry import CHECKS
from refusal_lightning.models import load_chat_model


def run(name: str, patient: CheckContext) -> Finding:
    with torch.inference_mode():
        return CHECKS[name].run(patient)


def with_template(folder, template: str | None, family: str = "tokenizer", **settings: str) -> CheckContext:
    saved = save_with_template(folder, template, **settings)
    return material(load_chat_model(str(saved), refusal_tokens=["I"], family=family))


@pytest.mark.parametrize(
    "template",
    [
        "{{ bos_token }}" + CHAT_TEMPLATE,
        CHAT_TEMPLATE.replace("{{ bos_token }}", '{{ bos_token }}"{{ bos_token }}'),  # the stray quote of an old one
    ],
    ids=["doubled", "after a quote"],
)
def test_two_beginnings(tmp_path, template):
    finding = run("beginning", with_template(tmp_path, template))
    assert (finding.verdict, finding.figure) == ("fail", 11)
    assert "up to 2 BOS tokens" in finding.advice


def test_a_beginning_added_by_the_tokenizer_too(patient):
    fresh = patient()
    plain = fresh.chat.tokenizer
    doubled = [[plain.bos_token_id, *prompt] for prompt in fresh.harmful]
    finding = run("beginning", CheckContext(fresh.chat, "cpu", doubled, fresh.harmless))
    assert (finding.verdict, finding.figure) == ("fail", len(doubled))


def test_a_beginning_that_is_not_at_the_beginning(patient):
    fresh = patient()
    moved = [[*prompt[1:3], prompt[0], *prompt[3:]] for prompt in fresh.harmful]
    assert run("beginning", CheckContext(fresh.chat, "cpu", moved, fresh.harmless)).figure == len(moved)


def test_an_instruction_that_holds_a_beginning(patient):
    fresh = patient()
    prompts = [fresh.chat.encode("What does <s> mean?"), fresh.chat.encode("What does it mean?")]
    assert run("beginning", CheckContext(fresh.chat, "cpu", prompts, fresh.harmless)).figure == 1


def test_no_beginning(tmp_path):
    """The tokenizer would put one before plain text, its template does not: nobody can tell which is right."""
    finding = run("beginning", with_template(tmp_path, CHAT_TEMPLATE.replace("{{ bos_token }}", "")))
    assert (finding.verdict, finding.figure) == ("warn", 11)


TURNS = "{% for m in messages %}<s>{{ m['role'] + '\\n' + m['content'] + '<|end|>' }}{% endfor %}"


def test_a_beginning_that_opens_turns(tmp_path):
    template = TURNS + "{% if add_generation_prompt %}<s>assistant\\n{% endif %}"
    (tmp_path / "doubled").mkdir()
    sound, doubled = with_template(tmp_path, template), with_template(tmp_path / "doubled", "<s>" + template)
    assert run("beginning", sound).verdict == "ok"
    assert "marks turns" in run("beginning", sound).compared
    assert run("beginning", doubled).verdict == "fail"
    prompt = sound.harmful[0]
    wrong = [prompt[1:], sound.chat.encode("What does <s> mean?"), [prompt[0], *prompt]]
    assert [run("beginning", CheckContext(sound.chat, "cpu", [ids], [prompt])).figure for ids in wrong] == [1, 1, 1]


def test_a_beginning_that_only_ends_turns(tmp_path):
    """As in tokenizers whose one control token is the beginning and the end of everything."""
    template = TURNS.replace("<s>", "").replace("<|end|>", "<s>") + "{% if add_generation_prompt %}answer:{% endif %}"
    sound = with_template(tmp_path, template)
    assert run("beginning", sound).verdict == "ok"
    led = [[sound.chat.tokenizer.bos_token_id, *prompt] for prompt in sound.harmful]
    assert run("beginning", CheckContext(sound.chat, "cpu", led, sound.harmless)).figure == len(led)


def test_no_bos_token_at_all(patient):
    fresh = patient()
    tokenizer = tiny_tokenizer()
    tokenizer.bos_token = None
    assert run("beginning", replace(fresh, chat=replace(fresh.chat, tokenizer=tokenizer))).verdict == "ok"


def test_an_end_that_depends_on_the_instruction(tmp_path):
    template = CHAT_TEMPLATE.replace(
        "{% if add_generation_prompt %}",
        "{{ 'Explain!' if 'Explain' in messages[0]['content'] }}"
        "{% if add_generation_prompt and 'Explain' not in messages[0]['content'] %}",
    )
    finding = run("eoi", with_template(tmp_path, template))
    assert (finding.verdict, finding.figure) == ("fail", 4)  # the harmful prompts


def test_positions_that_reach_into_the_instruction(patient):
    """As the paper counts for Llama-2: said, and not held against the user."""
    fresh = patient()
    chat = replace(fresh.chat, eoi_ids=fresh.probes[0][-6:])
    finding = run("eoi", CheckContext(chat, "cpu", fresh.harmful, fresh.harmless))
    assert finding.verdict == "warn"
    assert "only the last 4 are the template's" in finding.advice


def test_an_end_that_is_no_stop_token(patient):
    fresh = patient()
    end = fresh.chat.tokenizer.convert_tokens_to_ids("<|end|>")
    fresh.chat.stop_ids[:], before = [i for i in fresh.chat.stop_ids if i != end], list(fresh.chat.stop_ids)
    finding = run("stop tokens", fresh)
    fresh.chat.stop_ids[:] = before
    assert (finding.verdict, finding.figure) == ("fail", 1)
    assert "model.stop_tokens: ['<|end|>']" in finding.advice
    assert run("stop tokens", fresh).verdict == "ok"


@pytest.mark.parametrize(
    ("end", "why"),
    [
        ("' ###\\n'", "plain text ('"),
        ("''", "nothing after an answer"),
        ("raise_exception('no answers here')", "no answers here"),
    ],
)
def test_ends_that_cannot_be_told(tmp_path, end, why):
    template = (
        "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '<|user|>' + m['content'] }}<|assistant|>"
        "{% else %}{{ m['content'] + END }}{% endif %}{% endfor %}"
    )
    finding = run("stop tokens", with_template(tmp_path, template.replace("END", end)))
    assert (finding.verdict, finding.figure) == ("warn", None)
    assert why in finding.advice
    assert "model.stop_tokens" in finding.advice


def test_no_chat_template_to_compare_with(tmp_path):
    patient = with_template(tmp_path, None, family="llama2")
    for name in ("template", "stop tokens"):
        finding = run(name, patient)
        assert (finding.verdict, finding.figure) == ("warn", None)
        assert "no chat template" in finding.advice
    assert run("beginning", patient).verdict == "ok"


def test_a_template_that_differs(tmp_path):
    finding = run("template", with_template(tmp_path, CHAT_TEMPLATE, family="llama2"))
    assert finding.verdict == "warn"
    assert finding.figure == sum(line[0] in "+-" for line in finding.detail) > 0
    assert "-<s><|user|>\\n" in finding.detail
    assert "+<s>[INST] What is the capital of France? [/INST] " in finding.detail
    assert "model.family: tokenizer" in finding.advice


def test_a_system_prompt_is_no_difference(tiny_llama_folder):
    chat = load_chat_model(str(tiny_llama_folder), refusal_tokens=["I"], system_prompt="Be brief.")
    assert run("template", material(chat)).verdict == "ok"


def test_a_default_system_prompt_shows(tmp_path):
    own = CHAT_TEMPLATE.replace("{{ bos_token }}", "{{ bos_token }}<|system|>\nBe good.<|end|>\n")
    finding = run("template", with_template(tmp_path, own, family="llama2"))
    assert "-Be good.<|end|>\\n" in finding.detail


def test_a_template_that_fails_with_us(tmp_path):
    own = "{{ raise_exception('not today') }}"
    finding = run("template", with_template(tmp_path, own, family="llama2"))
    assert (finding.verdict, finding.figure) == ("warn", None)
    assert "not today" in finding.advice


def test_an_answer_prefix_is_no_difference(tmp_path):
    saved = save_with_template(tmp_path, CHAT_TEMPLATE)
    finding = run("template", material(load_chat_model(str(saved), refusal_tokens=["I"], answer_prefix="Sure: ")))
    assert (finding.verdict, finding.figure) == ("ok", 0.0)


def test_a_template_with_todays_date(tmp_path):
    own = CHAT_TEMPLATE.replace("{{ bos_token }}", "{{ bos_token }}{{ strftime_now('%d %b %Y') }}\\n")
    finding = run("template", with_template(tmp_path, own))
    assert finding.verdict == "warn"
    assert "today's date" in finding.advice


OPEN = CHAT_TEMPLATE.replace("<|assistant|>\\n' }}", "<|assistant|>\\n<think>\\n' }}")
CLOSED = CHAT_TEMPLATE.replace("<|assistant|>\\n' }}", "<|assistant|>\\n<think>\\n\\n</think>\\n\\n' }}")
MENTIONED = "{# <think> #}" + CHAT_TEMPLATE
SWITCHED = "{% if enable_thinking %}<think>{% endif %}" + CHAT_TEMPLATE  # we switch it off


@pytest.mark.parametrize(
    ("template", "signs", "said"),
    [
        (OPEN, 2, "our prompt ends inside a think block"),
        (MENTIONED, 1, "the chat template can open"),
        (SWITCHED, 0, ""),
        (CLOSED, 0, ""),
    ],
    ids=["left open", "mentioned", "switched off", "closed"],
)
def test_templates_that_think(tmp_path, template, signs, said):
    finding = run("thinking", with_template(tmp_path, template))
    assert (finding.verdict, finding.figure) == ("warn" if signs else "ok", signs)
    assert said in finding.advice
    assert ("model.answer_prefix" in finding.advice) == (signs > 0)


@pytest.mark.parametrize(
    ("answer", "thinks"), [("<think>\nWell", True), ("\n<|channel|>analysis", True), ("I think <think>", False)]
)
def test_answers_that_think(patient, monkeypatch, answer, thinks):
    fresh = patient()
    ids = fresh.chat.tokenizer(answer, add_special_tokens=False)["input_ids"]
    monkeypatch.setattr(thinking_check, "decode_greedily", lambda model, rows, *_: [ids for _ in rows])
    finding = run("thinking", fresh)
    assert finding.verdict == ("warn" if thinks else "ok")
    assert ("3 of 3 neutral answers begin with a think block" in finding.advice) == thinks
