"""Answers end where the model ends them: the template's end-of-turn token is a stop token."""

from __future__ import annotations

from refusal_lightning.doctor.chat_templates import render_own
from refusal_lightning.doctor.context import PROBES, CheckContext
from refusal_lightning.doctor.finding import Finding
from refusal_lightning.models.template import own_template_text

_ANSWER = "It is Paris."


def check_stops(material: CheckContext) -> Finding:
    """The token after an answer in the tokenizer's own rendering of a conversation: 1 if no stop token, 0 if one."""
    chat = material.chat
    tokenizer = chat.tokenizer
    name, compared = "stop tokens", "the token that the template puts after an answer, against the stop tokens"
    known = ", ".join(tokenizer.convert_ids_to_tokens(chat.stop_ids)) or "none"

    def cannot_tell(why: str) -> Finding:
        advice = f"{why}; see that the model's end-of-turn token is among the stop tokens ({known}), or add it to "
        return Finding(name, compared, None, 0.0, "warn", advice + "model.stop_tokens")

    if not own_template_text(tokenizer):
        return cannot_tell("the tokenizer has no chat template that would show how an answer ends")
    text, reason = render_own(tokenizer, None, PROBES[0], _ANSWER, generation_prompt=False)
    if text is None:
        return cannot_tell(f"the tokenizer's chat template does not render an answer: {reason}")
    after = tokenizer(text.rpartition(_ANSWER)[2].strip(), add_special_tokens=False)["input_ids"]
    if not after:
        return cannot_tell("the tokenizer's chat template puts nothing after an answer")
    end = tokenizer.convert_ids_to_tokens(after[0])
    compared = f"whether {end!r}, which the template puts after an answer, is missing from the stop tokens ({known})"
    if after[0] in chat.stop_ids:
        return Finding(name, compared, 0.0, 0.0, "ok")
    if after[0] not in tokenizer.all_special_ids and not _added(tokenizer, after[0]):
        return cannot_tell(f"the template ends an answer with plain text ({end!r})")
    advice = f"answers would run on past their end and be judged with what follows: model.stop_tokens: ['{end}']"
    return Finding(name, compared, 1.0, 0.0, "fail", advice)


def _added(tokenizer: object, token: int) -> bool:
    """Whether a token was added beside the vocabulary proper, as control tokens are."""
    return token in getattr(tokenizer, "added_tokens_decoder", {})
