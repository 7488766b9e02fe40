"""Refusal tokens are what refusals begin with on this model."""

from __future__ import annotations

import torch

from refusal_lightning.directions.metrics.refusal_tokens import likelier_on_harmful
from refusal_lightning.doctor.context import CheckContext
from refusal_lightning.doctor.finding import Finding, Verdict

ENOUGH = 0.5
"""Share of the first token's probability: below, `select` does not count the prompt as refused (log-odds of 0)."""
NOTHING = 0.05
"""The same: at or below, `select` would find next to no refused prompt to work with."""

_ONLY_REFUSAL = "only a choice by refusal scores goes by them"


def check_refusal(material: CheckContext) -> Finding:
    """Share of the first answer token's probability that the refusal tokens have: mean over the harmful prompts.

    Of two kinds of prompts that are not those of refusal it is told, and none is right or wrong.
    """
    chat, labels = material.chat, material.labels
    name, compared = "refusal tokens", f"share of the first token's probability on {labels.harmful} prompts"
    split = len(material.harmful)
    first = torch.stack([reading.logits.double() for reading in material.alone]).softmax(-1)
    # Where none are named, those that `select` would find, here from these few prompts.
    tokens = chat.refusal_ids or [t.token for t in likelier_on_harmful(first[:split].mean(0), first[split:].mean(0))]
    if not tokens:
        if not labels.are_of_refusal:
            return Finding(name, f"none are named; {_ONLY_REFUSAL}", None, 0.0, "ok", at_least=True)
        advice = (
            "none are named, and no first token is much likelier on harmful prompts: the model may not refuse these; "
            "else set model.refusal_tokens to those that begin its refusals"
        )
        return Finding(name, compared, None, ENOUGH, "warn", advice, at_least=True)
    harmful, harmless = (float(part[:, tokens].sum(-1).mean()) for part in (first[:split], first[split:]))
    texts = ", ".join(repr(chat.tokenizer.decode([token])) for token in tokens)
    found = "" if chat.refusal_ids else "found here: "
    compared = f"{compared}, of {found}{texts} (on {labels.harmless} ones: {harmless:.2g})"
    if not labels.are_of_refusal:
        return Finding(name, f"{compared}; {_ONLY_REFUSAL}", harmful, 0.0, "ok", at_least=True)
    likeliest = torch.topk(first[:split].mean(0), 3)
    instead = ", ".join(
        f"{chat.tokenizer.decode([token])!r} {share:.0%}"
        for share, token in zip(likeliest.values.tolist(), likeliest.indices.tolist(), strict=True)
    )
    advice = ""
    if not harmful >= ENOUGH:
        advice = (
            f"the likeliest first tokens there are {instead}: set model.refusal_tokens to those that begin a refusal; "
            "if none does, the model does not refuse these prompts, or thinks first"
        )
    elif harmless >= harmful:
        advice = "these tokens begin answers to harmless prompts as often; choose others in model.refusal_tokens"
    verdict: Verdict = "ok" if not advice else "warn" if harmful > NOTHING else "fail"
    return Finding(name, compared, harmful, ENOUGH, verdict, advice, at_least=True)
