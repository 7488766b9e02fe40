"""What a model's blocks do, seen in one small pass: what each gives back, and whether we see all that it writes.

Architectures differ in both, and wrong guesses fail silently: a loop that takes the first of what a block gives takes
a batch's first row from a plain tensor, and a direction ablated from attention and MLP comes back with a third write.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

STREAM = ("resid_pre", "resid_mid", "resid_post")
"""A block's hook points where the residual stream itself can be reached, as far as an architecture has them."""
_POINTS = ("resid_pre", "attn_out", "mlp_out", "resid_post")
_known: WeakKeyDictionary[Any, BlockFacts] = WeakKeyDictionary()


@dataclass(frozen=True)
class BlockFacts:
    """Facts about the blocks of a model."""

    n_given: tuple[int | None, ...]
    """Per block: how many values the tuple has that it gives back, None where it gives a tensor."""
    adds_up: bool
    """Whether every block's output is its input and what the attention and MLP hooks see, within rounding."""
    one_stream: bool
    """Whether what a block takes is ``[row, token, d_model]``: one residual stream, and not several that mix."""

    def output(self, layer: int, residual: Tensor) -> Any:
        """What the block would give back whose output is ``residual``."""
        n_given = self.n_given[layer]
        return residual if n_given is None else (residual, *[None] * (n_given - 1))


def block_facts(bridge: TransformerBridge) -> BlockFacts:
    """Facts about a model's blocks, found at the first call, when no hooks may be on it."""
    if bridge not in _known:
        _known[bridge] = _examine(bridge)
    return _known[bridge]


@torch.inference_mode()
def _examine(bridge: TransformerBridge) -> BlockFacts:
    layers = range(bridge.cfg.n_layers)
    n_given: list[int | None] = [None] * len(layers)
    shapes: set[tuple[int, ...]] = set()
    seen: dict[str, Tensor] = {}

    def note(layer: int) -> Callable[[Any, Any, Any], None]:
        def look(module: Any, args: Any, output: Any) -> None:
            n_given[layer] = len(output) if isinstance(output, tuple) else None
            shapes.add(tuple((output[0] if isinstance(output, tuple) else output).shape))

        return look

    def keep(name: str) -> Callable[[Tensor, Any], None]:
        def record(activation: Tensor, hook: Any) -> None:
            seen[name] = activation.float().clone()

        return record

    names = [
        name for layer in layers for point in _POINTS if (name := f"blocks.{layer}.hook_{point}") in bridge.hook_dict
    ]
    device = torch.device(str(bridge.cfg.device))
    model: Any = bridge.original_model
    ids = torch.arange(8).view(2, 4) * 97 % model.get_input_embeddings().weight.shape[0]
    ids = ids.to("cpu" if device.type == "meta" else device)  # meta: weights that are off-loaded
    with _forward_hooks(bridge, note), bridge.hooks(fwd_hooks=[(name, keep(name)) for name in names]):
        bridge(ids, attention_mask=torch.ones_like(ids), use_cache=False)
    dtype = next(iter(model.parameters())).dtype
    adds_up = all(_adds_up(seen, layer, dtype) for layer in layers)
    return BlockFacts(tuple(n_given), adds_up, shapes == {(*ids.shape, bridge.cfg.d_model)})


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
    if found[0] is None or found[-1] is None:
        return False
    *terms, after = [x.to(found[0].device) for x in found if x is not None]
    size = torch.stack([x.norm(dim=-1) for x in [*terms, after]]).amax(0).clamp(min=1e-30)
    error = float(((sum(terms) - after).norm(dim=-1) / size).max())
    return error <= max(1e-5, 4 * torch.finfo(dtype).eps)
