"""Material for the doctor's tests: tiny models with a few made-up prompts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tiny_models import tiny_model

from refusal_lightning.doctor import CheckContext
from refusal_lightning.models import ChatModel, load_chat_model
from refusal_lightning.models.weights import Weights
from runs import instructions

N_PROMPTS = 4


def material(chat: ChatModel) -> CheckContext:
    """A chat model's own copy and four prompts of each kind; nothing done to it is seen by other tests."""
    harmful, harmless = (
        [chat.encode(row["instruction"]) for row in instructions(kind, "train", N_PROMPTS)]
        for kind in ("harmful", "harmless")
    )
    own = replace(
        chat, weights=Weights(chat.checkpoint), refusal_ids=list(chat.refusal_ids), stop_ids=list(chat.stop_ids)
    )
    return CheckContext(own, "cpu", harmful, harmless)


def sound(folder: Path, **settings: Any) -> CheckContext:
    """A model whose refusal tokens are those that it begins answers to the harmful prompts with."""
    patient = material(load_chat_model(str(folder), **{"refusal_tokens": ["I"], **settings}))
    patient.chat.refusal_ids[:] = likely_tokens(patient)
    return patient


def likely_tokens(patient: CheckContext) -> list[int]:
    """Tokens that cover most of the first answer token on harmful prompts, and less on harmless ones."""
    with torch.inference_mode():
        first = torch.stack([reading.logits.double() for reading in patient.alone]).softmax(-1)
    harmful, harmless = first[:N_PROMPTS].mean(0), first[N_PROMPTS:].mean(0)
    order = (harmful - harmless).argsort(descending=True)
    count = int((harmful[order].cumsum(0) < 0.6).sum()) + 1
    return [int(i) for i in order[:count]]


def save_with_template(folder: Path, template: str | None, **tokenizer_settings: str) -> Path:
    """A tiny Llama whose tokenizer has another chat template."""
    model, tokenizer = tiny_model("llama")
    tokenizer.chat_template = template
    for name, value in tokenizer_settings.items():
        setattr(tokenizer, name, value)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
