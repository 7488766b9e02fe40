"""End-of-instruction tokens are the same in every prompt, so that a position means the same."""

from __future__ import annotations

from refusal_lightning.doctor.context import CheckContext
from refusal_lightning.doctor.finding import Finding
from refusal_lightning.models.template import eoi_token_ids


def check_eoi(material: CheckContext) -> Finding:
    """Prompts whose last ids are not the template's eoi ids."""
    chat = material.chat
    prompts = [*material.probes, *material.prompts]

    def differing(eoi: list[int]) -> int:
        return sum(prompt[-len(eoi) :] != eoi for prompt in prompts)

    figure = differing(chat.eoi_ids)
    name, compared = "eoi", f"prompts, out of {len(prompts)}, that do not end with the {chat.n_positions} eoi ids"
    if not figure:
        return Finding(name, compared, 0.0, 0.0, "ok")
    fixed = eoi_token_ids(chat.template, chat.tokenizer)
    if len(fixed) < chat.n_positions and not differing(fixed):
        advice = (
            f"this family reads {chat.n_positions} positions as the paper does; only the last {len(fixed)} are the "
            "template's, the ones before are the instruction's last tokens and mean something else in each prompt"
        )
        return Finding(name, compared, float(figure), 0.0, "warn", advice)
    advice = (
        "what follows the instruction depends on the instruction (the template branches, or tokens merge), so means "
        "over prompts would mix different tokens; set model.family, or use a template with a fixed end"
    )
    return Finding(name, compared, float(figure), 0.0, "fail", advice)
