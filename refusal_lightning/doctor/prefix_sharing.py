"""The passes of `select` give what plain ones give: prompts continued from the beginning that they share."""

from __future__ import annotations

from typing import Any

import torch

from refusal_lightning.doctor.bounds import judge_prompts, pass_bound
from refusal_lightning.doctor.context import CheckContext
from refusal_lightning.doctor.finding import Finding
from refusal_lightning.doctor.padding import worst
from refusal_lightning.doctor.passes import relative_change
from refusal_lightning.inference.prefix_cache import PromptSetTokens, last_logits, prefix_pass
from refusal_lightning.inference.shortcuts import shares_exactly

_SHARED = (
    "the scores of `select` go on from keys and values that prompts share, and on this model that is not the same as a "
    "whole pass (its cache, positions or attention window): do not trust `select` here, and report it"
)
_WHOLE = (
    "the passes of `select` call the Hugging Face model itself, and give something else than the bridge does (its mask "
    "or positions): do not trust `select` here, and report it"
)


def check_continuation(material: CheckContext) -> Finding:
    """Logits of every prompt alone, against those of batches that go on from a cache of the template's beginning."""
    chat = material.chat
    model: Any = material.engine.model
    shares = shares_exactly(model, material.prompts, material.input_device)
    tokens = PromptSetTokens(material.prompts, len(material.prompts), shares, material.input_device)
    past = prefix_pass(model, tokens.prefix, 1)
    figures = [0.0] * tokens.n_prompts
    for bucket in tokens.buckets:
        rows = torch.zeros(len(bucket.ids), dtype=torch.long, device=bucket.ids.device)
        logits = last_logits(model, bucket.ids, bucket.mask, past, rows).cpu()
        for row, prompt in enumerate(bucket.prompts):
            figures[prompt] = relative_change(logits[row], material.alone[prompt].logits)
    bound = pass_bound(material.dtype, chat.n_layers)
    verdict = judge_prompts(figures, bound, material.dtype)
    return Finding(
        f"continuation, {chat.dtype}",
        f"{len(figures)} prompts, each alone and continued from {tokens.prefix.shape[1]} shared tokens: logits",
        worst(figures),
        bound,
        verdict,
        "" if verdict == "ok" else _SHARED if tokens.prefix.shape[1] else _WHOLE,
    )
