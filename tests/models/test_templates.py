"""From an instruction to token ids: templates, eoi tokens, refusal tokens, and the errors on the way."""

from __future__ import annotations

import pytest
from tiny_models import tiny_model, tiny_tokenizer
from tokenizers import processors

from refusal_lightning.errors import UserError
from refusal_lightning.models import load_chat_model
from refusal_lightning.models.families import FAMILIES, Family, family_of
from refusal_lightning.models.template import eoi_token_ids, family_template, tokenizer_template
from refusal_lightning.models.thinking import opens_thought


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("meta-llama/Llama-2-7b-chat-hf", "llama2"),
        ("meta-llama/Meta-Llama-3-8B-Instruct", "llama3"),
        ("google/gemma-2b-it", "gemma"),
        ("Qwen/Qwen-1_8B-Chat", "qwen"),
        ("01-ai/Yi-6B-Chat", "yi"),
        ("meta-llama/Llama-3.1-8B-Instruct", None),
        ("google/gemma-2-2b-it", None),
        ("Qwen/Qwen2.5-7B-Instruct", None),
        ("./models/Yi-6B-Chat/", "yi"),
    ],
)
def test_families_by_name(name, family):
    found = family_of(name)
    assert (found.name if found else None) == family


def test_the_papers_refusal_tokens():
    assert {name: family.refusal_tokens for name, family in FAMILIES.items()} == {
        "llama2": (306,),
        "llama3": (40,),
        "legacy_llama3": (40,),
        "gemma": (235285,),
        "qwen": (40, 2121),
        "yi": (59597,),
    }


def test_the_malformed_llama3_template_of_the_published_results():
    """By name it is never chosen; what differs is the text before the turn, and nothing after the instruction."""
    legacy, mended = FAMILIES["legacy_llama3"], FAMILIES["llama3"]
    assert legacy.template == '"<|begin_of_text|>' + mended.template
    assert all(family_of(name) is not legacy for name in ("legacy_llama3", "meta-llama/Meta-Llama-3-8B-Instruct"))
    tokenizer = tiny_tokenizer()
    eoi = [eoi_token_ids(family_template(family, tokenizer, None), tokenizer) for family in (legacy, mended)]
    assert eoi[0] == eoi[1]


def test_tokenizer_template_and_eoi():
    tokenizer = tiny_tokenizer()
    template = tokenizer_template(tokenizer, None, "tiny")
    assert template.render("Do it.") == "<s><|user|>\nDo it.<|end|>\n<|assistant|>\n"
    assert tokenizer.decode(eoi_token_ids(template, tokenizer)) == "<|end|>\n<|assistant|>\n"
    assert template.text.count("{instruction}") == 1


def test_system_prompt():
    tokenizer = tiny_tokenizer()
    template = tokenizer_template(tokenizer, "Be kind.", "tiny")
    assert template.render("Hi") == "<s><|system|>\nBe kind.<|end|>\n<|user|>\nHi<|end|>\n<|assistant|>\n"


def test_settings_of_the_tokenizers_template():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template += "{% if enable_thinking is false %}{{ '<|end|>\\n' }}{% endif %}"
    options: tuple[dict[str, bool], ...] = ({"enable_thinking": True}, {"enable_thinking": False}, {})
    plain, without, default = (tokenizer_template(tokenizer, None, "tiny", o) for o in options)
    assert default.render("Hi") == without.render("Hi")  # a model that can think is asked not to
    assert without.render("Hi") == plain.render("Hi") + "<|end|>\n"
    with pytest.raises(UserError, match=r"has no 'enable_thoughts'"):
        tokenizer_template(tokenizer, None, "tiny", {"enable_thoughts": False})


def test_a_familys_template_has_no_settings(tiny_llama_folder):
    with pytest.raises(UserError, match=r"that of family llama3; set model.family: tokenizer"):
        load_chat_model(str(tiny_llama_folder), family="llama3", template_options={"enable_thinking": False})


@pytest.mark.parametrize("name", FAMILIES)
def test_family_templates_hold_the_instruction_once_and_one_bos(name):
    tokenizer = tiny_tokenizer()
    template = family_template(FAMILIES[name], tokenizer, None)
    assert template.text.startswith(tokenizer.bos_token) and template.text.count("{instruction}") == 1
    ids = template.encode(tokenizer, "Paint {system} the {instruction} fence")
    assert tokenizer.decode(ids).count("Paint {system} the {instruction} fence") == 1
    assert ids.count(tokenizer.bos_token_id) == 1
    assert ids[0] == tokenizer.bos_token_id


@pytest.mark.parametrize(
    ("adds", "chat_template", "begins"),
    [
        (True, None, True),
        (False, "{{ bos_token }}{{ messages[0]['content'] }}", True),  # the first Llama-3 tokenizers
        (False, "{{ messages[0]['content'] }}", False),
        (False, "{{ raise_exception('no') }}", False),
        (False, None, False),
    ],
)
def test_a_familys_prompts_begin_as_the_tokenizers_own(adds, chat_template, begins):
    tokenizer = tiny_tokenizer()
    if not adds:
        tokenizer.backend_tokenizer.post_processor = processors.ByteLevel()
    tokenizer.chat_template = chat_template
    for system in (None, "Be kind."):
        template = family_template(FAMILIES["llama3"], tokenizer, system)
        assert (template.encode(tokenizer, "Hi")[0] == tokenizer.bos_token_id) is begins
        assert template.text.startswith("<s>") is begins


def test_a_family_without_system_role_says_so():
    for name in ("gemma", "legacy_llama3"):
        with pytest.raises(UserError, match=rf"the {name} family has no system role"):
            family_template(FAMILIES[name], tiny_tokenizer(), "Be kind.")


def test_the_papers_count_of_positions_overrides():
    tokenizer = tiny_tokenizer()
    template = tokenizer_template(tokenizer, None, "tiny")
    ids = eoi_token_ids(template, tokenizer, 6)
    assert len(ids) == 6
    assert ids[2:] == eoi_token_ids(template, tokenizer)


def test_eoi_tokens_that_merge_with_the_instruction_do_not_count():
    """A template whose first text merges with some instructions' last letters."""
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{{ messages[0]['content'] }} the end<|assistant|>\n"
    template = tokenizer_template(tokenizer, None, "tiny")
    eoi = eoi_token_ids(template, tokenizer)
    for instruction in ("a", "Say\n", "in", "42", "?"):
        assert template.encode(tokenizer, instruction)[-len(eoi) :] == eoi


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ bos_token }}hello<|assistant|>", "drops the instruction"),
        ("{{ messages[0]['content'] }}", "nothing after the instruction"),
        ("{{ raise_exception('no users here') }}", "no users here"),
        (None, "no chat template"),
    ],
)
def test_bad_templates(tmp_path, template, message):
    model, tokenizer = tiny_model("llama")
    tokenizer.chat_template = template
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=message):
        load_chat_model(str(tmp_path), refusal_tokens=["I"])


def test_models_that_are_none(tmp_path, tiny_llama_folder):
    with pytest.raises(UserError, match=r"no folder"):
        load_chat_model(str(tmp_path / "nowhere"), refusal_tokens=["I"])
    with pytest.raises(UserError, match=r"holds no model"):
        load_chat_model(str(tmp_path), refusal_tokens=["I"])
    with pytest.raises(UserError, match=r"is a file"):
        load_chat_model(str(tiny_llama_folder / "config.json"), refusal_tokens=["I"])
    with pytest.raises(UserError, match=r"cannot be read"):
        load_chat_model("nobody/no-such-model", refusal_tokens=["I"])


def test_refusal_tokens(tiny_llama_folder):
    assert load_chat_model(str(tiny_llama_folder)).refusal_ids == []  # to be found from the data
    assert load_chat_model(str(tiny_llama_folder), refusal_tokens="auto").refusal_ids == []
    with pytest.raises(UserError, match=r"'forest of pines' is . tokens|'forest of pines' is .. tokens"):
        load_chat_model(str(tiny_llama_folder), refusal_tokens=["forest of pines"])
    with pytest.raises(UserError, match=r"99999 is not in the vocabulary"):
        load_chat_model(str(tiny_llama_folder), refusal_tokens=[99999])
    assert load_chat_model(str(tiny_llama_folder), refusal_tokens=["I", 7]).refusal_ids[1] == 7


def test_an_answer_prefix_is_part_of_every_prompt(tiny_llama_folder):
    plain = load_chat_model(str(tiny_llama_folder), refusal_tokens=["I"])
    chat = load_chat_model(str(tiny_llama_folder), refusal_tokens=["I"], answer_prefix="Sure: ")
    prompt = chat.tokenizer.decode(chat.encode("Do it."))
    assert prompt == "<s><|user|>\nDo it.<|end|>\n<|assistant|>\nSure: "
    assert chat.tokenizer.decode(chat.eoi_ids) == "<|end|>\n<|assistant|>\nSure: "
    assert chat.n_positions > plain.n_positions
    assert chat.identity != plain.identity


def test_a_prefix_lengthens_the_papers_positions_too(tiny_llama_folder):
    chat = load_chat_model(str(tiny_llama_folder), family="llama2", refusal_tokens=["I"], answer_prefix="Sure: ")
    assert chat.tokenizer.decode(chat.eoi_ids) == " [/INST] Sure: "


THINKING = (
    "{{ messages[0]['content'] }}<|assistant|>"
    "{% if enable_thinking is not defined or enable_thinking %}<think>{% else %}<think></think>{% endif %}"
)


@pytest.mark.parametrize(
    ("template", "prefix", "thinks"),
    [
        (THINKING, None, False),  # the template's switch is off
        (THINKING.split("{% if")[0] + "<think>\n", None, True),
        (THINKING.split("{% if")[0] + "<think>\n", "</think>", False),
        (THINKING.split("{% if")[0], None, False),
    ],
)
def test_a_prompt_that_leaves_a_thought_open_is_noticed(tmp_path, template, prefix, thinks):
    model, tokenizer = tiny_model("llama")
    tokenizer.chat_template = template
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert load_chat_model(str(tmp_path), answer_prefix=prefix).thinks == thinks


@pytest.mark.parametrize(
    ("text", "opens"),
    [
        ("<think>", True),
        ("\n<think>", True),
        ("<|channel|>", True),
        ("<|channel|>final", False),
        ("[THINK]", True),
        ("I think", False),
        ("</think>", False),
    ],
)
def test_marks_of_a_thought(text, opens):
    assert opens_thought(text) == opens


def test_unknown_family(tiny_llama_folder):
    with pytest.raises(UserError, match=r"model.family 'lama2' is not known"):
        load_chat_model(str(tiny_llama_folder), family="lama2")


def test_stop_tokens_include_the_models_own(tiny_llama_folder):
    chat = load_chat_model(str(tiny_llama_folder), refusal_tokens=["I"])
    names = {chat.tokenizer.convert_ids_to_tokens(i) for i in chat.stop_ids}
    assert names == {"</s>", "<|end|>"}


def test_identity_tells_models_apart(tmp_path, tiny_llama_folder):
    def identity(**arguments):
        return load_chat_model(**{"name": str(tiny_llama_folder), "refusal_tokens": ["I"], **arguments}).identity

    assert identity() == identity()
    model, tokenizer = tiny_model("llama", seed=1)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    others = [{"name": str(tmp_path)}, {"dtype": "bfloat16"}, {"system_prompt": "Be kind."}]
    assert all(identity(**other) != identity() for other in others)
    assert identity(refusal_tokens=["S"]) == identity()  # activations do not depend on them


def test_a_prompt_longer_than_the_context(tiny_llama_folder):
    chat = load_chat_model(str(tiny_llama_folder), refusal_tokens=["I"])
    with pytest.raises(UserError, match=r"the model's context holds 512"):
        chat.encode("word " * 600)


@pytest.mark.parametrize("family", ["llama2", "yi"])
def test_a_family_of_another_vocabulary_is_refused(tiny_llama_folder, family):
    """Its refusal token would be any token here."""
    with pytest.raises(
        UserError, match=rf"is not of family {family}: that family's refusal token \d+ is 'I' there and"
    ):
        load_chat_model(str(tiny_llama_folder), family=family)


def test_a_family_of_ones_own(tiny_llama_folder, monkeypatch):
    """Registered, by its name or by that of the model; its template makes other stores."""
    monkeypatch.setattr(FAMILIES, "_entries", dict(FAMILIES))
    entry = Family("mine", r"tiny-ll", "Q: {instruction} A: ", None, (2,), refusal_words=())
    plain = load_chat_model(str(tiny_llama_folder), refusal_tokens=["I"])
    FAMILIES.register("mine", entry)
    by_name = load_chat_model(str(tiny_llama_folder), family="mine", refusal_tokens=["I"])
    by_pattern = load_chat_model(str(tiny_llama_folder), refusal_tokens=["I"])
    assert by_name.template.source == by_pattern.template.source == "family mine"
    assert by_name.identity == by_pattern.identity != plain.identity
    with pytest.raises(UserError, match=r"llama2, .*, mine, tokenizer, auto"):
        load_chat_model(str(tiny_llama_folder), family="other")
