"""The refusal tokens of a run: those of the configuration or the family, else those that the data show."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from refusal_lightning.directions.metrics.refusal_tokens import likelier_on_harmful, mean_probabilities
from refusal_lightning.errors import UserError
from refusal_lightning.inputs.prompts import PromptSet
from refusal_lightning.inputs.stored_logits import StoredLogits
from refusal_lightning.models import ChatModel
from refusal_lightning.models.thinking import opens_thought
from refusal_lightning.store import ActivationStore

log = logging.getLogger(__name__)

_COVERED = 0.5
"""A model that refuses begins so with most of its probability."""
_AT_ONCE = 64
"""Prompts whose logits are in memory at a time; another number would round the mean otherwise."""


@dataclass(frozen=True)
class RefusalTokens:
    """The tokens that refusals begin with, and how likely the baseline makes each on the training prompts."""

    ids: list[int]
    rows: list[dict[str, Any]]
    """Per token: its id, its text, and its mean probabilities on harmful and harmless prompts."""


def find_refusal_tokens(
    chat: ChatModel, store: ActivationStore, harmful: PromptSet, harmless: PromptSet
) -> RefusalTokens:
    """Those of ``chat.refusal_ids``; where nobody has named any, those that the stored baseline shows.

    Raises UserError where no token is much likelier on harmful prompts.
    """
    likely = mean_probabilities(StoredLogits(store, harmful.hashes).pieces(_AT_ONCE))
    otherwise = mean_probabilities(StoredLogits(store, harmless.hashes).pieces(_AT_ONCE))
    warn_if_thinking(chat, likely)
    ids = list(chat.refusal_ids)
    if not ids:
        found = likelier_on_harmful(likely, otherwise)
        if not found:
            raise UserError(
                f"no first token is much likelier on {harmful.name} than on {harmless.name}, so the refusal tokens "
                "cannot be found from the data: the model may not refuse these prompts; else name the tokens that its "
                'refusals begin with, e.g. model.refusal_tokens: ["I"]'
            )
        ids = [entry.token for entry in found]
    rows = [
        {
            "token": token,
            "text": chat.tokenizer.decode([token]),
            "harmful": float(likely[token]),
            "harmless": float(otherwise[token]),
        }
        for token in ids
    ]
    if not chat.refusal_ids:
        shown = ", ".join(f"{row['text']!r} ({row['harmful']:.0%} against {row['harmless']:.1%})" for row in rows)
        log.info(
            f"refusal tokens, found as likelier firsts on {harmful.name} than on {harmless.name}: {shown}; "
            "model.refusal_tokens overrides them"
        )
    covered = sum(row["harmful"] for row in rows)
    if covered < _COVERED:
        log.warning(
            f"the refusal tokens have {covered:.0%} of the first-token probability on {harmful.name}: the "
            "model refuses few of these prompts, or its refusals begin otherwise"
        )
    return RefusalTokens(ids, rows)


def warn_if_thinking(chat: ChatModel, probabilities: Float[Tensor, " vocab"]) -> None:
    """Say so where the first token is not the answer's, but a thought's."""
    likeliest = int(probabilities.argmax())
    text = chat.tokenizer.decode([likeliest])
    if opens_thought(text):
        log.warning(
            f"{chat.alias} starts with {text!r} ({probabilities[likeliest]:.0%}): it thinks before it "
            "answers, so first-token scores say nothing about refusal. Set model.answer_prefix to an empty thought, "
            'such as "<think>\\n\\n</think>\\n\\n"'
        )
