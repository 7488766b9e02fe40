"""What a model's blocks do, found in small passes through its engine: what each gives back, what is seen of its writes.

Architectures differ in both, and wrong guesses fail silently: a loop that takes the first of what a block gives takes
a batch's first row from a plain tensor, and a direction ablated from attention and MLP comes back with a third write.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from refusal_lightning.models.blocks import BlockFacts
from refusal_lightning.models.engines.protocol import Engine

_POINTS = ("resid_pre", "attn_out", "mlp_out", "resid_post")


@torch.no_grad()  # not inference mode: what a model keeps of a pass, as tables of positions, may be trained with later
def block_facts(engine: Engine, d_model: int) -> BlockFacts:
    """Facts about a model's blocks, found in two small passes; no hooks may be on it. ``engine.facts`` is not asked."""
    vocabulary = engine.model.get_input_embeddings().weight.shape[0]
    ids = (torch.arange(8).view(2, 4) * 97 % vocabulary).to(engine.input_device)
    mask = torch.ones_like(ids)
    n_given, shapes, seen, logits = _small_pass(engine, ids, mask)
    layers, dtype = range(engine.n_layers), next(iter(engine.model.parameters())).dtype
    ends = [f"blocks.{layer}.hook_{point}" for layer in layers for point in ("resid_pre", "resid_post")]
    problem = None
    if shapes != {(*ids.shape, d_model)}:
        problem = "its blocks carry several residual streams that mix"
    elif silent := [name for name in ends if name not in seen]:
        problem = f"its hook {silent[0]} sees nothing"
    else:
        longer, padding = (torch.nn.functional.pad(x, (3, 0)) for x in (ids, mask))
        behind = engine(longer, attention_mask=padding)[:, -1]
        if not _alike(behind.float(), logits, dtype):
            problem = "padding changes what it gives: its code ignores the attention mask"
    return BlockFacts(tuple(n_given), all(_adds_up(seen, layer, dtype) for layer in layers), problem)


def _small_pass(
    engine: Engine, ids: Tensor, mask: Tensor
) -> tuple[list[int | None], set[tuple[int, ...]], dict[str, Tensor], Tensor]:
    """What every block gives back (number of values, shapes), what the hooks see, and the last logits."""
    layers = range(engine.n_layers)
    n_given: list[int | None] = [None] * len(layers)
    shapes: set[tuple[int, ...]] = set()
    seen: dict[str, Tensor] = {}

    def note(layer: int) -> Callable[[Any, Any, Any], None]:
        def look(module: Any, args: Any, output: Any) -> None:
            several = isinstance(output, tuple | list)
            n_given[layer] = len(output) if several else None
            shapes.add(tuple((output[0] if several else output).shape))

        return look

    def keep(name: str) -> Callable[[Tensor, Any], None]:
        def record(activation: Any, hook: Any) -> None:
            if isinstance(activation, Tensor):  # OpenAI-GPT's blocks give a list
                seen[name] = activation.float().clone()

        return record

    known = engine.hook_names
    names = [name for layer in layers for point in _POINTS if (name := f"blocks.{layer}.hook_{point}") in known]
    with _forward_hooks(engine, note), engine.hooks(fwd_hooks=[(name, keep(name)) for name in names]):
        logits = engine(ids, attention_mask=mask)[:, -1]
    return n_given, shapes, seen, logits.float()


def _alike(logits: Tensor, others: Tensor, dtype: torch.dtype) -> bool:
    """Whether rows are the same within rounding. In half precision a router may turn a row aside: one of two is enough.

    A vocabulary's unused end may be masked with -inf, in both alike.
    """
    change = (logits - others).nan_to_num(0.0).norm(dim=-1) / others.nan_to_num(neginf=0.0).norm(dim=-1)
    return bool((change <= 1e-3).all()) if torch.finfo(dtype).bits > 16 else bool((change <= 0.3).any())


@contextmanager
def _forward_hooks(engine: Engine, hook: Callable[[int], Any]) -> Iterator[None]:
    handles = [engine.blocks[layer].register_forward_hook(hook(layer)) for layer in range(engine.n_layers)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _adds_up(seen: dict[str, Tensor], layer: int, dtype: torch.dtype) -> bool:
    """One block's sum of three terms, relative to the largest of them: four roundings at most."""
    found = [seen.get(f"blocks.{layer}.hook_{point}") for point in _POINTS]
    terms = [x.to(found[0].device) for x in found if x is not None and found[0] is not None]
    if len(terms) < len(_POINTS):
        return False  # a write without a hook
    *terms, after = terms
    size = torch.stack([x.norm(dim=-1) for x in [*terms, after]]).amax(0).clamp(min=1e-30)
    error = float(((sum(terms) - after).norm(dim=-1) / size).max())
    return error <= max(1e-5, 4 * torch.finfo(dtype).eps)
