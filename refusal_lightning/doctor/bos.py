"""Exactly one beginning-of-sequence token, as the tokenizer would put it."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from refusal_lightning.doctor.chat_templates import render_own
from refusal_lightning.doctor.context import PROBES, CheckContext
from refusal_lightning.doctor.finding import Finding
from refusal_lightning.models.template import own_template_text


def check_beginning(material: CheckContext) -> Finding:
    """Prompts that do not begin with exactly one BOS token, or hold further ones.

    Where BOS is also what opens or ends a turn (`<|im_start|>` of some models), the tokenizer's own template says how
    many a prompt has, and whether it begins with one. Where the tokenizer neither puts one before plain text nor has
    it in its template, none is right.
    """
    tokenizer = material.chat.tokenizer
    bos = tokenizer.bos_token_id
    prompts = [*material.probes, *material.prompts]
    if bos is None:
        return Finding("beginning", "the tokenizer has no BOS token, so no prompt begins with one", 0.0, 0.0, "ok")
    rendered, adds = _own_ids(material), _adds_one(tokenizer, bos)
    own = rendered.count(bos)
    wanted = 1 if own or adds else 0
    turns = bos in material.chat.eoi_ids
    leads = rendered[:1] == [bos] or (not rendered and adds)

    def wrong(ids: list[int]) -> bool:
        if turns:  # as many as in the tokenizer's own rendering, and none follows another
            return (ids[0] == bos) != leads or ids.count(bos) > own > 0 or (bos, bos) in pairwise(ids)
        return ids.count(bos) != wanted or bos in ids[wanted:]

    figure = sum(map(wrong, prompts))
    name = "beginning"
    compared = f"prompts, out of {len(prompts)}, without exactly {wanted} BOS token ({tokenizer.bos_token!r}" + (
        ", which marks turns too)" if turns else ")"
    )
    if not figure:
        return Finding(name, compared, 0.0, 0.0, "ok")
    most = max(prompt.count(bos) for prompt in prompts)
    if adds and not most and rendered and not own:
        advice = (
            "the tokenizer puts BOS before plain text and its chat template does not: see the model's card for which "
            "it was trained with; a family in model.family adds it"
        )
        return Finding(name, compared, float(figure), 0.0, "warn", advice)
    advice = (
        f"a prompt has up to {most} BOS tokens, so the model reads what it was not trained on. A template must not "
        "spell BOS out beside the tokenizer's own, and no instruction may hold it: mend the template or the prompts"
    )
    return Finding(name, compared, float(figure), 0.0, "fail", advice)


def _adds_one(tokenizer: Any, bos: int) -> bool:
    """Whether the tokenizer puts BOS before plain text."""
    return bool(tokenizer("a")["input_ids"][:1] == [bos])


def _own_ids(material: CheckContext) -> list[int]:
    """Token ids of a prompt as the tokenizer's own template has it; none without a template, or where it fails."""
    tokenizer = material.chat.tokenizer
    if not own_template_text(tokenizer):
        return []
    text, _ = render_own(tokenizer, material.chat.identity.get("system_prompt"), PROBES[0])
    return [] if text is None else list(tokenizer(text, add_special_tokens=False)["input_ids"])
