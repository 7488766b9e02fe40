"""Which ways to save work are exact on a model: found by trying them on a few of its own prompts before they are used.

Going on from a cache of the shared beginning, and stepping over blocks, hold for every architecture whose layers keep
keys and values by column and hand nothing but the stream to later blocks. Rather than list those, each way is compared
with the plain one; where it differs, or its code breaks, the plain way is taken.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from refusal_lightning.inference.prefix_cache import last_logits, prefix_pass, shared_length
from refusal_lightning.interventions import record_activations, skip_blocks
from refusal_lightning.models.engines.protocol import Engine
from refusal_lightning.models.tokens import left_pad, token_positions

log = logging.getLogger(__name__)

TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-4}
"""Largest relative change of a row's logits; half precision: 0.1, since its rounding alone reaches some hundredths."""

_shares: WeakKeyDictionary[Any, tuple[int, bool]] = WeakKeyDictionary()
_steps: WeakKeyDictionary[Any, tuple[int, bool]] = WeakKeyDictionary()
_skips: WeakKeyDictionary[Any, tuple[int, bool]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Shortcuts:
    """Which ways are exact on a model."""

    shares: bool
    """Prompts may go on from keys and values of the beginning that they share."""
    skips: bool
    """A pass may enter at a layer with its ``resid_pre``, the blocks below being stepped over."""


def exact_shortcuts(engine: Engine, prompts: Sequence[Sequence[int]], device: Any) -> Shortcuts:
    """What is exact for prompts of these lengths; found once per model, and again for longer prompts.

    What is done in full instead is logged when it is found.
    """
    model: Any = engine.model
    # What one of the later blocks misses of those that are stepped over shows from the middle, and from the end on.
    layers = sorted({engine.n_layers // 2, engine.n_layers - 1})
    plain: list[Tensor] = []
    start: dict[int, Tensor] = {}

    def run_plain() -> Float[Tensor, "row vocab"]:
        """Once for both questions, with the streams that passes may enter with."""
        if not plain:
            with record_activations(engine, ["resid_pre"], layers, lambda x: x) as captured, torch.inference_mode():
                plain.append(last_logits(model, *_two(prompts, device)))
            start.update({layer: captured["resid_pre", layer] for layer in layers})
        return plain[0]

    shares = shares_exactly(model, prompts, device, run_plain)

    def skips() -> bool:
        exact = _skips_exactly(engine, prompts, shares, device, run_plain(), start)
        if not exact:
            log.info("induce scores run all blocks: on this architecture later blocks need more than the stream")
        return exact

    return Shortcuts(shares, _remembered(_skips, engine, prompts, skips))


def shares_exactly(
    model: Any,
    prompts: Sequence[Sequence[int]],
    device: Any,
    run_plain: Callable[[], Float[Tensor, "row vocab"]] | None = None,
) -> bool:
    """Whether the shortest and the longest prompt give, from the shared beginning, the logits of a whole pass.

    ``run_plain`` is that pass, where the caller has a use for it too.
    """
    if not shared_length(prompts):
        return False

    def shares() -> bool:
        exact = keeps_columns(model.config) and _continues_exactly(model, prompts, device, run_plain)
        if not exact:
            log.info("prompts are run whole: on this architecture they cannot go on from the beginning that they share")
        return exact

    return _remembered(_shares, model, prompts, shares)


def steps_exactly(model: Any, prompts: Sequence[Sequence[int]], device: Any) -> bool:
    """Whether a token that is read after a prompt, from the model's own cache, gives what a whole pass does."""

    def steps() -> bool:
        exact = _steps_exactly(model, prompts, device)
        if not exact:
            log.info("every token is decoded in a whole pass: on this architecture it cannot go on from a cache")
        return exact

    return _remembered(_steps, model, prompts, steps)


def keeps_columns(config: Any) -> bool:
    """Whether every layer keeps its own keys and values of every token, or of those in a window.

    Recurrent layers keep no columns, and layers that share another's keys have none of their own.
    """
    config = config.get_text_config()
    layers = DynamicCache(config=config).layers
    columns = all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers)
    return columns and not getattr(config, "num_kv_shared_layers", 0)


def _remembered(
    known: WeakKeyDictionary[Any, tuple[int, bool]],
    model: Any,
    prompts: Sequence[Sequence[int]],
    find: Callable[[], bool],
) -> bool:
    longest = max(len(prompt) for prompt in prompts)
    if model not in known or (known[model][1] and known[model][0] < longest):
        known[model] = longest, find()
    return known[model][1]


def _two(prompts: Sequence[Sequence[int]], device: Any) -> tuple[Int[Tensor, "2 token"], Int[Tensor, "2 token"]]:
    """The shortest and the longest prompt, left-padded."""
    ids, mask = left_pad([min(prompts, key=len), max(prompts, key=len)])
    return ids.to(device), mask.to(device)


@torch.inference_mode()
def _continues_exactly(
    model: Any,
    prompts: Sequence[Sequence[int]],
    device: Any,
    run_plain: Callable[[], Float[Tensor, "row vocab"]] | None,
) -> bool:
    shared = shared_length(prompts)
    ids, mask = _two(prompts, device)
    plain = last_logits(model, ids, mask) if run_plain is None else run_plain()
    try:
        past = prefix_pass(model, ids[1:, :shared], 1)
        rows = torch.zeros(2, dtype=torch.long, device=ids.device)
        continued = last_logits(model, ids[:, shared:], mask, past, rows)
    except Exception:  # whatever an architecture's code makes of a cache, there is the plain way
        return False
    return _same(model, continued, plain)


@torch.inference_mode()
def _steps_exactly(model: Any, prompts: Sequence[Sequence[int]], device: Any) -> bool:
    ids, mask = _two(prompts, device)
    plain = last_logits(model, ids, mask)
    more = torch.cat([ids, plain.argmax(-1, keepdim=True).to(ids.device)], dim=1)
    longer = torch.nn.functional.pad(mask, (0, 1), value=1)
    cache = DynamicCache(config=model.config)
    rest = [(ids, mask), (more[:, -1:], longer)]
    try:
        for tokens, seen in rest:
            out = model(
                input_ids=tokens,
                attention_mask=seen,
                position_ids=token_positions(seen)[:, -tokens.shape[1] :],
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
    except Exception:  # whatever an architecture's code makes of a cache, there is the plain way
        return False
    return _same(model, out.logits[:, -1].float(), last_logits(model, more, longer))


@torch.inference_mode()
def _skips_exactly(
    engine: Engine,
    prompts: Sequence[Sequence[int]],
    shares: bool,
    device: Any,
    plain: Float[Tensor, "row vocab"],
    start: dict[int, Float[Tensor, "2 token d_model"]],
) -> bool:
    """Whether passes that enter at some layers, with the stream that a plain pass has there, give what it gives.

    Nothing is added: what later blocks miss of those that are stepped over, they miss with and without.
    """
    model: Any = engine.model
    ids, mask = _two(prompts, device)
    shared = shared_length(prompts) if shares else 0
    rows = torch.zeros(2, dtype=torch.long, device=ids.device)
    for layer, stream in start.items():
        past = []
        try:
            if shared:  # the longest prompt has no padding before it
                with skip_blocks(engine, layer, stream[1:, :shared]):
                    past = prefix_pass(model, ids[1:, :shared], 1)
            with skip_blocks(engine, layer, stream[:, shared:]):
                entered = last_logits(model, ids[:, shared:], mask, past, rows)
        except Exception:  # a later block may look for what a lower one leaves behind
            return False
        if not _same(model, entered, plain):
            return False
    return True


def _same(model: Any, logits: Float[Tensor, "row vocab"], others: Float[Tensor, "row vocab"]) -> bool:
    """Whether logits are the same within rounding; in half precision a near-tie may turn one row aside."""
    unused = logits.isneginf() & others.isneginf()  # a vocabulary's unused end may be masked, in both alike
    change, size = (x.masked_fill(unused, 0.0).double() for x in (logits - others, others))
    relative = (change - change.mean(-1, keepdim=True)).norm(dim=-1) / (size - size.mean(-1, keepdim=True)).norm(dim=-1)
    tolerance = TOLERANCE.get(model.get_input_embeddings().weight.dtype)
    return bool((relative <= 0.1).any()) if tolerance is None else bool((relative <= tolerance).all())
