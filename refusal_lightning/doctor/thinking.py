"""Models that think before they answer: the first token is not the answer's, unless the prompt closes the thoughts."""

from __future__ import annotations

import re

from refusal_lightning.doctor.finding import Finding
from refusal_lightning.doctor.material import Material
from refusal_lightning.doctor.own_template import own_template_text
from refusal_lightning.models.tokens import left_pad
from refusal_lightning.modules.decoding import decode_greedily

_OPENS = re.compile(
    r"<(think|thinking|thought|reasoning)>|<\|channel\|>\s*analysis|<\|START_THINKING\|>|\[THINK\]|<\|begin_of_thought\|>",
    re.IGNORECASE,
)
_CLOSES = re.compile(
    r"</(think|thinking|thought|reasoning)>|<\|channel\|>\s*final|<\|END_THINKING\|>|\[/THINK\]|<\|end_of_thought\|>",
    re.IGNORECASE,
)
_TOKENS = 8
"""Answer tokens looked at: a think block is opened at once, if at all."""


def check_thinking(material: Material) -> Finding:
    """Signs of thinking: the template speaks of it, our prompt leaves a block open, neutral answers begin with one."""
    chat = material.chat
    source = own_template_text(chat.tokenizer)
    speaks = "enable_thinking" in source or _OPENS.search(source) is not None
    end = chat.tokenizer.decode(chat.eoi_ids)
    opened, closed = _last(_OPENS, end), _last(_CLOSES, end)
    ids, mask = (t.to(material.device) for t in left_pad(material.probes))
    answers = decode_greedily(material.bridge.original_model, ids, mask, set(chat.stop_ids), _TOKENS)
    thinks = sum(_OPENS.match(chat.tokenizer.decode(answer).lstrip()) is not None for answer in answers)
    signs = [
        text
        for text, found in (
            ("the chat template can open a think block", speaks and not closed > opened),
            ("our prompt ends inside a think block", opened > closed),
            (f"{thinks} of {len(answers)} neutral answers begin with a think block", thinks > 0),
        )
        if found
    ]
    advice = ""
    if signs:
        advice = (
            f"{'; '.join(signs)}. Then the first token after the prompt is a thought's and refusal scores and KL say "
            "nothing about the answer: end the prompt where the answer begins with model.answer_prefix, e.g. "
            '"<think>\\n\\n</think>\\n\\n"'
        )
    compared = f"signs of thinking: template, end of our prompt, {_TOKENS} greedy tokens on {len(answers)} prompts"
    return Finding("thinking", compared, float(len(signs)), 0.0, "warn" if signs else "ok", advice)


def _last(pattern: re.Pattern[str], text: str) -> int:
    """Where a pattern last begins; -1 if nowhere."""
    return max((match.start() for match in pattern.finditer(text)), default=-1)
