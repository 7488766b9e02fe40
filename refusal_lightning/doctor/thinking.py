"""Models that think before they answer: the first token is not the answer's, unless the prompt closes the thoughts."""

from __future__ import annotations

from refusal_lightning.doctor.context import CheckContext
from refusal_lightning.doctor.finding import Finding
from refusal_lightning.inference.decoding import StoppingRule, decode_greedily
from refusal_lightning.models.template import own_template_text
from refusal_lightning.models.thinking import may_open_thought, opens_thought
from refusal_lightning.models.tokens import left_pad

_TOKENS = 8
"""Answer tokens looked at: a think block is opened at once, if at all."""


def check_thinking(material: CheckContext) -> Finding:
    """Signs of thinking: the template speaks of it, our prompt leaves a block open, neutral answers begin with one."""
    chat = material.chat
    may = may_open_thought(own_template_text(chat.tokenizer), chat.tokenizer.decode(chat.eoi_ids))
    ids, mask = (t.to(material.input_device) for t in left_pad(material.probes))
    answers = decode_greedily(material.engine.model, ids, mask, StoppingRule(set(chat.stop_ids), _TOKENS))
    thinks = sum(opens_thought(chat.tokenizer.decode(answer)) for answer in answers)
    signs = [
        text
        for text, found in (
            ("the chat template can open a think block", may),
            ("our prompt ends inside a think block", chat.thinks),
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
