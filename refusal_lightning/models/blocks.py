"""What a model's blocks do, seen in one small pass: what each gives back, and whether we see all that it writes.

Architectures differ in both, and wrong guesses fail silently: a loop that takes the first of what a block gives takes
a batch's first row from a plain tensor, and a direction ablated from attention and MLP comes back with a third write.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

STREAM = ("resid_pre", "resid_mid", "resid_post")
"""A block's hook points where the residual stream itself can be reached, as far as an architecture has them."""
_POINTS = ("resid_pre", "attn_out", "mlp_out", "resid_post")


@dataclass(frozen=True)
class BlockFacts:
    """Facts about the blocks of a model."""

    n_given: tuple[int | None, ...]
    """Per block: how many values the tuple has that it gives back, None where it gives a tensor."""
    adds_up: bool
    """Whether every block's output is its input and what the attention and MLP hooks see, within rounding."""
    problem: str | None
    """Why no direction can be read from or ablated in this model, if so."""

    def output(self, layer: int, residual: Tensor) -> Any:
        """What the block would give back whose output is ``residual``."""
        n_given = self.n_given[layer]
        return residual if n_given is None else (residual, *[None] * (n_given - 1))


@torch.inference_mode()
def block_facts(bridge: TransformerBridge) -> BlockFacts:
    """Facts about a model's blocks, found in two small passes; no hooks may be on it."""
    model: Any = bridge.original_model
    if not hasattr(bridge, "blocks"):
        return BlockFacts((), False, "TransformerLens knows it without a list of blocks")
    device = torch.device(str(bridge.cfg.device))
    ids = torch.arange(8).view(2, 4) * 97 % model.get_input_embeddings().weight.shape[0]
    ids = ids.to("cpu" if device.type == "meta" else device)  # meta: weights that are off-loaded
    mask = torch.ones_like(ids)
    n_given, shapes, seen, logits = _small_pass(bridge, ids, mask)
    layers, dtype = range(bridge.cfg.n_layers), next(iter(model.parameters())).dtype
    ends = [f"blocks.{layer}.hook_{point}" for layer in layers for point in ("resid_pre", "resid_post")]
    problem = None
    if shapes != {(*ids.shape, bridge.cfg.d_model)}:
        problem = "its blocks carry several residual streams that mix"
    elif silent := [name for name in ends if name not in seen]:
        problem = f"its hook {silent[0]} sees nothing"
    else:
        padded, padding = (torch.nn.functional.pad(x, (3, 0)) for x in (ids, mask))
        behind = bridge(padded, attention_mask=padding, use_cache=False)[:, -1]
        if not _alike(behind.float(), logits, dtype):
            problem = "padding changes what it gives: its code ignores the attention mask"
    return BlockFacts(tuple(n_given), all(_adds_up(seen, layer, dtype) for layer in layers), problem)


def _small_pass(
    bridge: TransformerBridge, ids: Tensor, mask: Tensor
) -> tuple[list[int | None], set[tuple[int, ...]], dict[str, Tensor], Tensor]:
    """What every block gives back (number of values, shapes), what the hooks see, and the last logits."""
    layers = range(bridge.cfg.n_layers)
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
        def record(activation: Tensor, hook: Any) -> None:
            seen[name] = activation.float().clone()

        return record

    names = [
        name for layer in layers for point in _POINTS if (name := f"blocks.{layer}.hook_{point}") in bridge.hook_dict
    ]
    with _forward_hooks(bridge, note), bridge.hooks(fwd_hooks=[(name, keep(name)) for name in names]):
        logits = bridge(ids, attention_mask=mask, use_cache=False)[:, -1]
    return n_given, shapes, seen, logits.float()


def _alike(logits: Tensor, others: Tensor, dtype: torch.dtype) -> bool:
    """Whether rows are the same within rounding. In half precision a router may turn a row aside: one of two is enough.

    A vocabulary's unused end may be masked with -inf, in both alike.
    """
    change = (logits - others).nan_to_num(0.0).norm(dim=-1) / others.nan_to_num(neginf=0.0).norm(dim=-1)
    return bool((change <= 1e-3).all()) if torch.finfo(dtype).bits > 16 else bool((change <= 0.3).any())


@contextmanager
def _forward_hooks(bridge: TransformerBridge, hook: Callable[[int], Any]) -> Iterator[None]:
    handles = [bridge.blocks[layer].register_forward_hook(hook(layer)) for layer in range(bridge.cfg.n_layers)]
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
