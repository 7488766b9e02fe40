"""Our template against the tokenizer's own."""

from __future__ import annotations

import difflib

from refusal_lightning.doctor.chat_templates import render_own
from refusal_lightning.doctor.context import PROBES, CheckContext
from refusal_lightning.doctor.finding import Finding
from refusal_lightning.models.template import own_template_text, writes_date

_LINES = 12
_COLUMNS = 100


def check_template(material: CheckContext) -> Finding:
    """A neutral instruction as we render it and as the tokenizer's chat template does: lines that differ."""
    chat = material.chat
    name, compared = (
        "template",
        f"a neutral prompt by {chat.template.source}, against the tokenizer's own template",
    )
    source = own_template_text(chat.tokenizer)
    if not source:
        advice = "the tokenizer has no chat template to compare with; see that the family in model.family is right"
        return Finding(name, compared, None, 0.0, "warn", advice)
    own, reason = render_own(chat.tokenizer, chat.identity.get("system_prompt"), PROBES[0])
    if own is None:
        return Finding(name, compared, None, 0.0, "warn", f"the tokenizer's own chat template fails: {reason}")
    own += chat.template.answer_prefix  # which is said by the configuration, and no difference of templates
    diff = _diff(own, chat.tokenizer.decode(chat.template.bos_ids) + chat.template.render(PROBES[0]))
    changed = sum(line[0] in "+-" for line in diff)
    if diff:
        advice = (
            "the model reads another prompt than its tokenizer would make: right where you mean it (the paper's "
            "families have no default system prompt), else take the tokenizer's with model.family: tokenizer or give "
            "model.system_prompt. The difference, - the tokenizer's and + ours:"
        )
        return Finding(name, compared, float(changed), 0.0, "warn", advice, detail=tuple(diff[:_LINES]))
    if writes_date(chat.template, chat.tokenizer):
        advice = (
            "the tokenizer's template writes today's date into every prompt, so another day has other prompts and "
            "another store; name a family, or give a template without a date"
        )
        return Finding(name, compared, 0.0, 0.0, "warn", advice)
    return Finding(name, compared, 0.0, 0.0, "ok")


def _diff(own: str, ours: str) -> list[str]:
    """Unified diff without its headers; ends of lines and other white space can be seen."""
    before, after = ([repr(line)[1:-1][:_COLUMNS] for line in text.splitlines(keepends=True)] for text in (own, ours))
    diff = difflib.unified_diff(before, after, lineterm="", n=1)
    return [line for line in diff if not line.startswith(("---", "+++", "@@"))]
