"""The model families of the paper, one declarative entry each (definitions: the paper's appendix C).

To add a family, add an entry. A model without an entry is spoken to through its tokenizer's own chat template.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from refusal_lightning.registry import Registry


@dataclass(frozen=True)
class Family:
    """How a family of chat models is spoken to.

    ``template`` and ``system_template`` hold ``{instruction}`` (and ``{system}``); no beginning-of-sequence
    text, which comes from the tokenizer alone. ``refusal_tokens`` are token ids of this family's tokenizer.
    ``n_positions`` fixes the count of end-of-instruction positions where the paper's differs from the derived one.
    """

    name: str
    pattern: str | None
    """Regular expression that a model's name matches from its start, case-insensitively; None: never by name."""
    template: str
    system_template: str | None
    refusal_tokens: tuple[int, ...]
    stop_tokens: tuple[str, ...] = ()
    n_positions: int | None = None
    refusal_words: tuple[str, ...] = ("I",)
    """What the refusal tokens say, by which another vocabulary is told from this family's."""


_OF_THE_PAPER = (
    Family(
        name="llama2",
        pattern=r"llama-2-\d+b-chat",
        template="[INST] {instruction} [/INST] ",
        system_template="[INST] <<SYS>>\n{system}\n<</SYS>>\n\n{instruction} [/INST] ",
        refusal_tokens=(306,),
        # The paper counts six: its sixth from the end is the instruction's last token, since " [/INST] "
        # alone encodes to one token more than in its place.
        n_positions=6,
    ),
    Family(
        name="llama3",
        pattern=r"(meta-)?llama-3-\d+b-instruct",
        template="<|start_header_id|>user<|end_header_id|>\n\n{instruction}<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        system_template="<|start_header_id|>system<|end_header_id|>\n\n{system}<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\n{instruction}<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        refusal_tokens=(40,),
        stop_tokens=("<|eot_id|>",),
    ),
    Family(
        # What the authors' published Llama-3 results were made with, until they mended it (their commit d73b247):
        # a stray quotation mark, and the beginning of sequence spelled out after the tokenizer's own. Only to
        # reproduce those results; their system message never held the instruction, so there is none.
        name="legacy_llama3",
        pattern=None,
        template='"<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n{instruction}<|eot_id|>'
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        system_template=None,
        refusal_tokens=(40,),
        stop_tokens=("<|eot_id|>",),
    ),
    Family(
        name="gemma",
        pattern=r"gemma-(1\.1-)?\d+b-it",
        template="<start_of_turn>user\n{instruction}<end_of_turn>\n<start_of_turn>model\n",
        system_template=None,
        refusal_tokens=(235285,),
        stop_tokens=("<end_of_turn>",),
    ),
    Family(
        name="qwen",
        pattern=r"qwen-\d+(_\d+)?b-chat",
        template="<|im_start|>user\n{instruction}<|im_end|>\n<|im_start|>assistant\n",
        system_template="<|im_start|>system\n{system}<|im_end|>\n"
        "<|im_start|>user\n{instruction}<|im_end|>\n<|im_start|>assistant\n",
        refusal_tokens=(40, 2121),
        refusal_words=("I", "As"),
        stop_tokens=("<|im_end|>",),
    ),
    Family(
        name="yi",
        pattern=r"yi-\d+b-chat",
        template="<|im_start|>user\n{instruction}<|im_end|>\n<|im_start|>assistant\n",
        system_template="<|im_start|>system\n{system}<|im_end|>\n"
        "<|im_start|>user\n{instruction}<|im_end|>\n<|im_start|>assistant\n",
        refusal_tokens=(59597,),
        stop_tokens=("<|im_end|>",),
    ),
)

FAMILIES: Registry[Family] = Registry("model family", {family.name: family for family in _OF_THE_PAPER})
"""By the name that configurations use; a model's own name is held to the patterns in this order."""


def family_of(model_name: str) -> Family | None:
    """The family whose pattern the last part of the model's name matches, if any."""
    last = model_name.rstrip("/").rsplit("/", 1)[-1]
    return next((f for f in FAMILIES.values() if f.pattern and re.match(f.pattern, last, re.IGNORECASE)), None)
