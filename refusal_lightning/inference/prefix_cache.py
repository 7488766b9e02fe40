"""Passes over a set of prompts that spend nothing twice: the beginning that all share is computed once.

A chat template puts the same tokens (its system message) before every instruction. Under an intervention they give
the same keys and values for every prompt, so they are run once per direction and the rest continues from there.

Rows are left-padded as whole prompts are: padding, shared beginning, rest. Padding between the beginning and the rest
would move the beginning away, which shows wherever distance counts in columns (ALiBi, windows, chunks). So a row that
is shorter by n tokens takes the beginning's last n tokens with its rest, and the cache without them, n columns later.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache

from refusal_lightning.models.tokens import left_pad, length_batches, token_positions

WORTH_SHARING = 4
"""Tokens that a beginning must have at least: below, the extra pass costs more than it saves."""


@dataclass
class Bucket:
    """Prompts of similar length, left-padded."""

    prompts: list[int]
    """Their numbers in the set."""
    ids: Int[Tensor, "prompt token"]
    """The last tokens: what follows the shared beginning of the longest prompt."""
    mask: Int[Tensor, "prompt column"]
    """Of the whole prompts."""


class PromptSetTokens:
    """A set's prompts as a shared beginning and buckets of what follows it."""

    def __init__(self, prompts: Sequence[Sequence[int]], batch_size: int, share: bool, device: Any) -> None:
        """``share`` says whether the model may go on from a cache (see ``Shortcuts``)."""
        shared = shared_length(prompts) if share else 0
        self.n_prompts = len(prompts)
        self.prefix = torch.tensor([list(prompts[0][:shared])], dtype=torch.long, device=device)
        self.buckets = []
        for index in length_batches([len(p) - shared for p in prompts], batch_size):
            ids, mask = (t.to(device) for t in left_pad([prompts[i] for i in index]))
            self.buckets.append(Bucket(index, ids[:, shared:], mask))


def prefix_pass(model: Any, prefix: Int[Tensor, "1 token"], rows: int) -> list[tuple[Tensor, Tensor]]:
    """Keys and values of every layer for ``rows`` copies of the shared beginning, hooks acting on each.

    A layer that is stepped over (``skip_blocks``) has none: its entry is of no rows.
    """
    if not prefix.shape[1]:
        return []
    cache = DynamicCache()
    ids = prefix.expand(rows, -1)
    mask = torch.ones_like(ids)
    model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=token_positions(mask),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    layers: list[Any] = list(cache.layers)
    return [(layer.keys, layer.values) if layer.is_initialized else _nothing(ids) for layer in layers]


def last_logits(
    model: Any,
    ids: Int[Tensor, "row token"],
    mask: Int[Tensor, "row column"],
    past: Sequence[tuple[Tensor, Tensor]] = (),
    row_of_past: Int[Tensor, " row"] | None = None,
) -> Float[Tensor, "row vocab"]:
    """Logits at the last token, float32 or better, of left-padded rows that continue a shared beginning.

    ``past`` is what ``prefix_pass`` gave, ``row_of_past`` its row for each row here, ``mask`` that of whole rows.
    """
    if past:
        assert row_of_past is not None
        return _float(continued_pass(model, ids, mask, past, row_of_past)[0])
    out = model(
        input_ids=ids, attention_mask=mask, position_ids=token_positions(mask), use_cache=False, logits_to_keep=1
    )
    return _float(out.logits[:, -1])


def continued_pass(
    model: Any,
    ids: Int[Tensor, "row token"],
    mask: Int[Tensor, "row column"],
    past: Sequence[tuple[Tensor, Tensor]],
    row_of_past: Int[Tensor, " row"],
) -> tuple[Float[Tensor, "row vocab"], DynamicCache]:
    """Logits at the last token, and keys and values of the whole rows, shared beginning (if any) included.

    ``ids`` are the last columns of left-padded rows, ``mask`` that of all their columns. Every layer's cache is as long
    as the rows, windowed or not: what a window hides is masked.
    """
    cache = DynamicCache()
    length = mask.shape[1] - ids.shape[1]
    n_pads = mask.shape[1] - mask.sum(-1)
    columns = (torch.arange(length, device=mask.device) - n_pads.unsqueeze(1)).clamp(min=0) if n_pads.any() else None
    for number, (keys, values) in enumerate(past):
        if keys.shape[0]:
            cache.update(_rows(keys, row_of_past, columns), _rows(values, row_of_past, columns), number)
        else:  # stepped over: only its length is looked at, when the mask is made
            blank = torch.empty(1, 1, length, 1, device=ids.device)
            cache.update(blank, blank, number)
    out = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=token_positions(mask)[:, length:],
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    return out.logits[:, -1], cache


def _rows(
    past: Float[Tensor, "past head column d_head"],
    row_of_past: Int[Tensor, " row"],
    columns: Int[Tensor, "row column"] | None,
) -> Float[Tensor, "row head column d_head"]:
    """The beginning's keys or values for each row, each column from where ``columns`` says."""
    rows = row_of_past.to(past.device)
    if columns is None:
        return past.index_select(0, rows)
    # As one selection of whole [d_head] rows: ten times faster than indexing rows and columns of the transposed tensor.
    _, heads, length, d_head = past.shape
    head = torch.arange(heads, device=past.device)
    flat = (rows[:, None, None] * heads + head[None, :, None]) * length + columns.to(past.device)[:, None, :]
    return past.reshape(-1, d_head).index_select(0, flat.flatten()).view(len(rows), heads, -1, d_head)


def shared_length(prompts: Sequence[Sequence[int]]) -> int:
    """How many tokens of the beginning to compute once: 0 where it is not worth it."""
    shared = _shared_length([p[:-1] for p in prompts])
    return 0 if shared < WORTH_SHARING else shared


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
