"""Greedy decoding with a KV cache, written out so that nothing of a model's own generation settings leaks in.

Hugging Face's ``generate`` takes what is not set from the model's generation config (a repetition penalty, say),
and TransformerBridge's stops on one end token only.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache

from refusal_lightning.models.tokens import token_positions

Choose = Callable[[Float[Tensor, "row vocab"], list[int], int], Int[Tensor, " row"]]
"""Next tokens from logits, for the rows of these numbers, each of which has so many tokens already."""


@dataclass(frozen=True)
class StoppingRule:
    """When an answer ends: at a stop token, after so many tokens, or where its row has filled the context, in tokens.

    The last token of a row that fills the context could not be read, and is told.
    """

    stop_ids: Collection[int]
    max_new_tokens: int
    context: int | None = None

    def fills_context(self, n_tokens: int) -> bool:
        """Whether a row of so many tokens, prompt and answer, is longer than the model can read."""
        return self.context is not None and n_tokens > self.context


def decode_greedily(
    model: Any,
    ids: Int[Tensor, "prompt token"],
    mask: Int[Tensor, "prompt token"],
    stopping: StoppingRule,
) -> list[list[int]]:
    """The likeliest continuation of each left-padded prompt, as token ids without the stop token.

    ``model`` is a Hugging Face causal language model, hooks and all; they act at the prompt and at every step.
    """
    return decode_batch(model, ids, mask, stopping, lambda logits, rows, step: logits.argmax(-1))


def decode_batch(
    model: Any,
    ids: Int[Tensor, "prompt token"],
    mask: Int[Tensor, "prompt token"],
    stopping: StoppingRule,
    choose: Choose,
    cached: bool = True,
) -> list[list[int]]:
    """The continuation of each left-padded prompt, with the model's own kind of cache, or without any.

    A row that has ended leaves the batch, so the rest does not pay for it.
    """
    answers: list[list[int]] = [[] for _ in range(len(ids))]
    alive = list(range(len(ids)))
    n_tokens = mask.sum(-1).tolist()
    cache = DynamicCache(config=model.config) if cached else None
    tokens = ids
    for step in range(stopping.max_new_tokens):
        positions = token_positions(mask)[:, -tokens.shape[1] :]
        logits = model(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=cached,
            logits_to_keep=1,
        ).logits[:, -1]
        chosen = choose(logits, alive, step).to(ids.device)
        going_on = []
        for row, token in enumerate(chosen.tolist()):
            if token not in stopping.stop_ids:
                answer = answers[alive[row]]
                answer.append(token)
                if not stopping.fills_context(n_tokens[alive[row]] + len(answer)):
                    going_on.append(row)
        if not going_on:
            break
        if len(going_on) < len(alive):
            keep: Any = torch.tensor(going_on, device=ids.device)
            if cache is not None:
                cache.reorder_cache(keep)  # recurrent layers' states too, each where its block is
            chosen, mask, tokens = chosen[keep], mask[keep], tokens[keep]
            alive = [alive[row] for row in going_on]
        tokens = chosen.unsqueeze(-1) if cached else torch.cat([tokens, chosen.unsqueeze(-1)], dim=-1)
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=-1)
    return answers
