"""The refusal tokens of a run: those of the configuration or the family, else those that the data show."""

from __future__ import annotations

import logging
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


def settle_refusal_tokens(
    chat: ChatModel, store: ActivationStore, harmful: PromptSet, harmless: PromptSet
) -> list[dict[str, Any]]:
    """Find the refusal tokens from the stored baseline on the training prompts, where nobody has named them.

    Sets ``chat.refusal_ids``. Returns each refusal token with its mean probabilities, for the record. Raises UserError
    where no token is much likelier on harmful prompts.
    """
    likely = mean_probabilities(StoredLogits(store, harmful.hashes).pieces(_AT_ONCE))
    otherwise = mean_probabilities(StoredLogits(store, harmless.hashes).pieces(_AT_ONCE))
    _say_thoughts(chat, likely)
    found_here = not chat.refusal_ids
    if found_here:
        found = likelier_on_harmful(likely, otherwise)
        if not found:
            raise UserError(
                f"no first token is much likelier on {harmful.name} than on {harmless.name}, so the refusal tokens "
                "cannot be found from the data: the model may not refuse these prompts; else name the tokens that its "
                'refusals begin with, e.g. model.refusal_tokens: ["I"]'
            )
        chat.refusal_ids = [entry.token for entry in found]
    table = [
        {
            "token": token,
            "text": chat.tokenizer.decode([token]),
            "harmful": float(likely[token]),
            "harmless": float(otherwise[token]),
        }
        for token in chat.refusal_ids
    ]
    if found_here:
        shown = ", ".join(f"{row['text']!r} ({row['harmful']:.0%} against {row['harmless']:.1%})" for row in table)
        log.info(
            f"refusal tokens, found as likelier firsts on {harmful.name} than on {harmless.name}: {shown}; "
            "model.refusal_tokens overrides them"
        )
    covered = sum(row["harmful"] for row in table)
    if covered < _COVERED:
        log.warning(
            f"the refusal tokens have {covered:.0%} of the first-token probability on {harmful.name}: the "
            "model refuses few of these prompts, or its refusals begin otherwise"
        )
    return table


def _say_thoughts(chat: ChatModel, probabilities: Float[Tensor, " vocab"]) -> None:
    """Say so where the first token is not the answer's, but a thought's."""
    likeliest = int(probabilities.argmax())
    text = chat.tokenizer.decode([likeliest])
    if opens_thought(text):
        log.warning(
            f"{chat.alias} starts with {text!r} ({probabilities[likeliest]:.0%}): it thinks before it "
            "answers, so first-token scores say nothing about refusal. Set model.answer_prefix to an empty thought, "
            'such as "<think>\\n\\n</think>\\n\\n"'
        )
