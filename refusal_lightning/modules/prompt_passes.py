"""Passes over a set of prompts that spend nothing twice: the beginning that all share is computed once.

A chat template puts the same tokens (its system message) before every instruction. Under an intervention they give
the same keys and values for every prompt, so they are run once per direction and the rest continues from there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache

from refusal_lightning.models.tokens import left_pad, length_batches

WORTH_SHARING = 4
"""Tokens that a beginning must have at least: below, the extra pass costs more than it saves."""


@dataclass
class Bucket:
    """Prompts of similar length, without the tokens that all prompts share."""

    prompts: list[int]
    """Their numbers in the set."""
    ids: Int[Tensor, "prompt token"]
    mask: Int[Tensor, "prompt token"]


class PromptSetTokens:
    """A set's prompts as a shared beginning and buckets of what follows it."""

    def __init__(self, prompts: Sequence[Sequence[int]], batch_size: int, window: int | None, device: Any) -> None:
        """``window`` is the model's sliding attention window, if any: prompts that exceed it share nothing."""
        shared = shared_length(prompts, window, max(len(p) for p in prompts))
        self.n_prompts = len(prompts)
        self.prefix = torch.tensor([list(prompts[0][:shared])], dtype=torch.long, device=device)
        rests = [p[shared:] for p in prompts]
        self.buckets = [
            Bucket(index, *(t.to(device) for t in left_pad([rests[i] for i in index])))
            for index in length_batches([len(rest) for rest in rests], batch_size)
        ]


def prefix_pass(model: Any, prefix: Int[Tensor, "1 token"], rows: int) -> list[tuple[Tensor, Tensor]]:
    """Keys and values of every layer for ``rows`` copies of the shared beginning, hooks acting on each.

    A layer that is stepped over (``skip_blocks``) has none: its entry is of no rows.
    """
    if not prefix.shape[1]:
        return []
    cache = DynamicCache()
    ids = prefix.expand(rows, -1)
    model(input_ids=ids, attention_mask=torch.ones_like(ids), past_key_values=cache, use_cache=True, logits_to_keep=1)
    layers: list[Any] = list(cache.layers)
    return [(layer.keys, layer.values) if layer.is_initialized else _nothing(ids) for layer in layers]


def last_logits(
    model: Any,
    ids: Int[Tensor, "row token"],
    mask: Int[Tensor, "row token"],
    past: Sequence[tuple[Tensor, Tensor]] = (),
    row_of_past: Int[Tensor, " row"] | None = None,
) -> Float[Tensor, "row vocab"]:
    """Logits at the last token, float32 or better, of rows that continue a shared beginning.

    ``past`` is what ``prefix_pass`` gave, ``row_of_past`` its row for each row here.
    """
    if not past:
        return _float(model(input_ids=ids, attention_mask=mask, use_cache=False, logits_to_keep=1).logits[:, -1])
    assert row_of_past is not None
    return _float(continued_pass(model, ids, mask, past, row_of_past)[0])


def continued_pass(
    model: Any,
    ids: Int[Tensor, "row token"],
    mask: Int[Tensor, "row token"],
    past: Sequence[tuple[Tensor, Tensor]],
    row_of_past: Int[Tensor, " row"],
) -> tuple[Float[Tensor, "row vocab"], DynamicCache, Int[Tensor, "row column"]]:
    """Logits at the last token, and keys, values and mask of the whole rows, shared beginning (if any) included.

    Every layer's cache is as long as the rows, windowed or not: what a window hides is masked.
    """
    cache = DynamicCache()
    length = max((keys.shape[-2] for keys, _ in past), default=0)
    for number, (keys, values) in enumerate(past):
        if keys.shape[0]:
            rows = row_of_past.to(keys.device)
            cache.update(keys.index_select(0, rows), values.index_select(0, rows), number)
        else:  # stepped over: only its length is looked at, when the mask is made
            blank = torch.empty(1, 1, length, 1, device=ids.device)
            cache.update(blank, blank, number)
    whole = torch.cat([mask.new_ones(len(mask), length), mask], dim=1)
    positions = (whole.cumsum(-1) - 1)[:, length:].clamp(min=0)
    out = model(
        input_ids=ids,
        attention_mask=whole,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    return out.logits[:, -1], cache, whole


def shared_length(prompts: Sequence[Sequence[int]], window: int | None, longest: int) -> int:
    """How many tokens of the beginning to compute once: 0 where it is not worth it.

    ``window`` is the model's sliding attention window, if any; rows of up to ``longest`` tokens that exceed it share
    nothing, since padding after the beginning would then move it out of sight.
    """
    shared = _shared_length([p[:-1] for p in prompts])
    return 0 if shared < WORTH_SHARING or (window is not None and longest > window) else shared


def _shared_length(prompts: Sequence[Sequence[int]]) -> int:
    """How many tokens all prompts begin with."""
    first = prompts[0]
    for length, token in enumerate(first):
        if any(len(p) <= length or p[length] != token for p in prompts):
            return length
    return len(first)


def _nothing(like: Tensor) -> tuple[Tensor, Tensor]:
    empty = torch.empty(0, 1, 0, 1, device=like.device)
    return empty, empty


def _float(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()
