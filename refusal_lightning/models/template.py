"""From an instruction to the text that the model reads, and the positions after the instruction.

End-of-instruction (eoi) tokens are found by comparing the token ids of rendered probe instructions, not by
splitting strings: a tokenizer may merge the template's first characters with the instruction's last ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from refusal_lightning.errors import UserError
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


@dataclass(frozen=True)
class ChatTemplate:
    """Renders instructions for one model.

    ``source`` says where the template came from; ``text`` is the template itself (what the store's identity
    records); ``render`` maps an instruction to a prompt that includes any beginning-of-sequence text, so prompts
    are tokenised with ``add_special_tokens=False``.
    """

    source: str
    text: str
    render: Callable[[str], str]


def family_template(family: Family, tokenizer: Any, system_prompt: str | None) -> ChatTemplate:
    """The template of a family entry, with the tokenizer's own beginning of sequence in front."""
    bos = tokenizer.bos_token if _adds_bos(tokenizer) else ""
    if system_prompt is None:
        return ChatTemplate(
            f"family {family.name}",
            bos + family.template,
            lambda instruction: bos + family.template.replace("{instruction}", instruction),
        )
    if family.system_template is None:
        raise UserError(f"model.system_prompt: the {family.name} family has no system role; remove the key")
    head, tail = family.system_template.split("{instruction}")
    head = bos + head.replace("{system}", system_prompt)
    return ChatTemplate(
        f"family {family.name}, with system prompt",
        head + "{instruction}" + tail,
        lambda instruction: head + instruction + tail,
    )


def tokenizer_template(tokenizer: Any, system_prompt: str | None, model_name: str) -> ChatTemplate:
    """The chat template that the tokenizer carries. Raises UserError where it has none or it fails."""
    if not getattr(tokenizer, "chat_template", None):
        raise UserError(
            f"model {model_name!r} is of no known family and its tokenizer has no chat template; "
            "name its family with model.family, or use a chat model"
        )
    system = [] if system_prompt is None else [{"role": "system", "content": system_prompt}]

    def render(instruction: str) -> str:
        messages = [*system, {"role": "user", "content": instruction}]
        try:
            # Templates that know the switch write an empty thought; others do not look at it.
            return str(
                tokenizer.apply_chat_template(
                    messages, tokenize=False, add_generation_prompt=True, enable_thinking=False
                )
            )
        except Exception as error:  # jinja errors, or the template's own raise_exception
            reason = " ".join(str(error).split())
            about = " with a system message" if system else ""
            raise UserError(f"the chat template of {model_name!r} fails{about}: {reason}") from error

    probe = _PROBES[0]
    if probe not in render(probe):
        raise UserError(f"the chat template of {model_name!r} drops the instruction; set model.family")
    return ChatTemplate("tokenizer", render(probe).replace(probe, "{instruction}"), render)


def with_answer_prefix(template: ChatTemplate, prefix: str) -> ChatTemplate:
    """The template with the start of every answer after it."""
    return ChatTemplate(
        f"{template.source}, with an answer prefix",
        template.text + prefix,
        lambda instruction: template.render(instruction) + prefix,
    )


def _adds_bos(tokenizer: Any) -> bool:
    """Whether the tokenizer puts a beginning-of-sequence token before plain text."""
    if tokenizer.bos_token_id is None:
        return False
    ids = tokenizer("a")["input_ids"]
    return bool(ids) and ids[0] == tokenizer.bos_token_id


def eoi_token_ids(template: ChatTemplate, tokenizer: Any, n_positions: int | None = None) -> list[int]:
    """Token ids that every prompt ends with, i.e. those after the instruction.

    With ``n_positions``, as many last ids of a probe prompt (the paper's count where it differs). Raises UserError
    when prompts share no ending, since no position would mean the same in every prompt.
    """
    prompts = [tokenizer(template.render(probe), add_special_tokens=False)["input_ids"] for probe in _PROBES]
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
