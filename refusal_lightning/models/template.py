"""From an instruction to the text that the model reads, and the positions after the instruction.

End-of-instruction (eoi) tokens are found by comparing the token ids of rendered probe instructions, not by
splitting strings: a tokenizer may merge the template's first characters with the instruction's last ones.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

from refusal_lightning.errors import UserError
from refusal_lightning.io.text import one_line
from refusal_lightning.models.families import Family

# They end in different kinds of characters, so that a merge with the template's start shows.
_PROBES = (
    "Name three birds",
    "What is the time?",
    "Add 4 and 17",
    "Say hello.",
    "List: a, b,",
    "Write\ncode {}",
)


# Templates that know a setting look at it. Thinking: off. The date: Llama 3.1's own fallback instead of today's, which
# would make other prompts, and another store, every day.
_SETTINGS = {"enable_thinking": False, "date_string": "26 Jul 2024"}


@dataclass(frozen=True)
class ChatTemplate:
    """Renders instructions for one model.

    ``source`` says where the template came from; ``text`` is the template itself, beginning of sequence included
    (what the store's identity records); ``render`` maps an instruction to a prompt's text.
    """

    source: str
    text: str
    render: Callable[[str], str]
    bos_ids: tuple[int, ...] = ()
    """Ids before those of the rendered text: the beginning of sequence, where the text does not spell it."""
    answer_prefix: str = ""
    """What ``render`` puts after the template: the start of every answer."""

    def encode(self, tokenizer: Any, instruction: str, answer: str = "") -> list[int]:
        """Token ids of the prompt, with an answer's text after it; the tokenizer adds no special token of its own.

        A family's beginning of sequence is an id and no text: after the spelled-out token some Llama tokenizers read
        the text's first word as if it had no space before it, which they do not where they add the token themselves.
        """
        text = self.render(instruction) + answer
        return [*self.bos_ids, *tokenizer(text, add_special_tokens=False)["input_ids"]]


def family_template(family: Family, tokenizer: Any, system_prompt: str | None) -> ChatTemplate:
    """The template of a family entry, with the tokenizer's own beginning of sequence in front."""
    begins = _begins_with_bos(tokenizer)
    bos, bos_ids = (tokenizer.bos_token, (int(tokenizer.bos_token_id),)) if begins else ("", ())
    if system_prompt is None:
        return ChatTemplate(
            f"family {family.name}",
            bos + family.template,
            lambda instruction: family.template.replace("{instruction}", instruction),
            bos_ids,
        )
    if family.system_template is None:
        raise UserError(f"model.system_prompt: the {family.name} family has no system role; remove the key")
    head, tail = family.system_template.split("{instruction}")
    head = head.replace("{system}", system_prompt)
    return ChatTemplate(
        f"family {family.name}, with system prompt",
        bos + head + "{instruction}" + tail,
        lambda instruction: head + instruction + tail,
        bos_ids,
    )


def tokenizer_template(
    tokenizer: Any, system_prompt: str | None, model_name: str, options: Mapping[str, Any] | None = None
) -> ChatTemplate:
    """The chat template that the tokenizer carries, with settings of its own such as ``enable_thinking``.

    Raises UserError where it has none, it fails, or it does not know a setting.
    """
    options = dict(options or {})
    if not getattr(tokenizer, "chat_template", None):
        raise UserError(
            f"model {model_name!r} is of no known family and its tokenizer has no chat template; "
            "name its family with model.family, or use a chat model"
        )
    unknown = [name for name in options if not re.search(rf"\b{re.escape(name)}\b", str(tokenizer.chat_template))]
    if unknown:
        raise UserError(f"model.template_options: the chat template of {model_name!r} has no {unknown[0]!r}; remove it")
    options = {**_SETTINGS, **options}
    system = [] if system_prompt is None else [{"role": "system", "content": system_prompt}]

    def render(instruction: str) -> str:
        messages = [*system, {"role": "user", "content": instruction}]
        try:
            return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **options))
        except Exception as error:  # jinja errors, or the template's own raise_exception
            reason = one_line(error)
            about = " with a system message" if system else ""
            raise UserError(f"the chat template of {model_name!r} fails{about}: {reason}") from error

    probe = _PROBES[0]
    if probe not in render(probe):
        raise UserError(f"the chat template of {model_name!r} drops the instruction; set model.family")
    return ChatTemplate("tokenizer", render(probe).replace(probe, "{instruction}"), render)


def with_answer_prefix(template: ChatTemplate, prefix: str) -> ChatTemplate:
    """The template with the start of every answer after it."""
    return replace(
        template,
        source=f"{template.source}, with an answer prefix",
        text=template.text + prefix,
        answer_prefix=prefix,
        render=lambda instruction: template.render(instruction) + prefix,
    )


def own_template_text(tokenizer: Any) -> str:
    """The template's source; empty where the tokenizer has none."""
    template = getattr(tokenizer, "chat_template", None)
    return template if isinstance(template, str) else "" if not template else str(template)


def writes_date(template: ChatTemplate, tokenizer: Any) -> bool:
    """Whether the tokenizer's template puts today's date into every prompt: another day has other prompts.

    Those that take the date as a setting do not, since it is given.
    """
    asks = "strftime_now" in own_template_text(tokenizer)
    return asks and template.source.startswith("tokenizer") and str(date.today().year) in template.text


def _begins_with_bos(tokenizer: Any) -> bool:
    """Whether the model's prompts begin with a beginning-of-sequence token.

    Either the tokenizer puts one before plain text, or its own chat template spells it: the first Llama-3 tokenizers
    leave it to the template.
    """
    if tokenizer.bos_token_id is None:
        return False
    if tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]:
        return True
    if not getattr(tokenizer, "chat_template", None):
        return False
    try:
        text = tokenizer.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False)
    except Exception:  # a family's own template is used: whether the tokenizer's works does not matter
        return False
    return str(text).startswith(tokenizer.bos_token)


def eoi_token_ids(template: ChatTemplate, tokenizer: Any, n_positions: int | None = None) -> list[int]:
    """Token ids that every prompt ends with, i.e. those after the instruction.

    With ``n_positions``, as many last ids of a probe prompt (the paper's count where it differs). Raises UserError
    when prompts share no ending, since no position would mean the same in every prompt.
    """
    prompts = [template.encode(tokenizer, probe) for probe in _PROBES]
    if n_positions is not None:
        return list(prompts[0][-n_positions:])
    shared = _common_suffix(prompts)
    if not shared:
        raise UserError(f"the chat template ({template.source}) puts nothing after the instruction: no eoi positions")
    return shared


def _common_suffix(sequences: Sequence[Sequence[int]]) -> list[int]:
    shared: list[int] = []
    for ids in zip(*(reversed(s) for s in sequences), strict=False):
        if len(set(ids)) > 1:
            break
        shared.append(ids[0])
    return shared[::-1]
