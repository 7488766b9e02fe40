"""The oracle: plain Hugging Face passes with ordinary hooks, and no code of the package.

One prompt at a time, unpadded, whole, without a cache. Which modules write into the residual stream is found by search:
those whose outputs add up to what a block changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

_MIDDLES = ("pre_ff_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "ffn_norm", "norm2", "ln_2")
"""Norms before an MLP; what they are given is projected in blocks whose writes the search does not find."""


class Plain:
    """A model with its blocks and what writes in them."""

    def __init__(self, model: Any, n_layers: int) -> None:
        self.model = model
        lists = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == n_layers]
        self.blocks = max(lists, key=lambda blocks: sum(p.numel() for p in blocks.parameters()))
        self.writers: list[list[nn.Module] | None] = []
        self._find_writers()

    @torch.inference_mode()
    def logits(self, ids: Sequence[int]) -> Tensor:
        """[token, vocab], float64."""
        return self.model(input_ids=torch.tensor([list(ids)]), use_cache=False).logits[0].double()

    @torch.inference_mode()
    def streams(self, ids: Sequence[int]) -> Tensor:
        """What every block is given, [layer, token, d_model]."""
        seen: list[Tensor] = []
        with _hooks([_before(block, lambda x: seen.append(x.clone())) for block in self.blocks]):
            self.logits(ids)
        return torch.stack([x[0] for x in seen])

    @contextmanager
    def added(self, vector: Tensor, layer: int) -> Iterator[None]:
        """Activation addition at a block's input."""
        with _hooks([_before(self.blocks[layer], lambda x: x + vector.to(x))]):
            yield

    @contextmanager
    def ablated(self, vector: Tensor) -> Iterator[None]:
        """The direction projected out of the first block's input and of every write."""
        unit = vector / vector.norm()

        def project(x: Tensor) -> Tensor:
            r = unit.to(x)
            return x - (x @ r).unsqueeze(-1) * r

        handles = [_before(self.blocks[0], project)]
        for block, writers in zip(self.blocks, self.writers, strict=True):
            if writers is not None:
                handles += [_after(writer, project) for writer in writers]
                continue
            handles += [_before(block, project), _after(block, project)]
            handles += [_before(m, project) for name, m in block.named_children() if name in _MIDDLES]
        with _hooks(handles):
            yield

    @torch.inference_mode()
    def _find_writers(self) -> None:
        scale = getattr(self.model.config.get_text_config(), "residual_multiplier", None) or 1.0
        given: list[Tensor] = []
        left: list[Tensor] = []
        outputs: list[dict[nn.Module, Tensor]] = [{} for _ in self.blocks]
        handles = []
        for block, found in zip(self.blocks, outputs, strict=True):
            handles += [
                _before(block, lambda x: given.append(x.clone())),
                _after(block, lambda x: left.append(x.clone())),
            ]
            handles += [_after(module, partial(_note, found, module)) for module in list(block.modules())[1:]]
        with _hooks(handles):
            self.logits(range(5, 15))
        for x, y, found in zip(given, left, outputs, strict=True):
            same = {m: out.reshape(y.shape) for m, out in found.items() if out.numel() == y.numel()}
            self.writers.append(_that_add_up(same, (y - x) / scale))


def _note(found: dict[nn.Module, Tensor], module: nn.Module, x: Tensor) -> None:
    found[module] = x.clone()


def _that_add_up(outputs: dict[nn.Module, Tensor], change: Tensor) -> list[nn.Module] | None:
    for count in (1, 2, 3):
        for modules in combinations(outputs, count):
            if (sum(outputs[m] for m in modules) - change).norm() <= 1e-4 * change.norm():
                return list(modules)
    return None


@contextmanager
def _hooks(handles: Sequence[Any]) -> Iterator[None]:
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _before(module: nn.Module, function: Callable[[Tensor], Tensor | None]) -> Any:
    def hook(module: nn.Module, args: Any, kwargs: Any) -> Any:
        changed = function(args[0] if args else kwargs["hidden_states"])
        if changed is None:
            return None
        return ((changed, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": changed})

    return module.register_forward_pre_hook(hook, with_kwargs=True)


def _after(module: nn.Module, function: Callable[[Tensor], Tensor | None]) -> Any:
    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        several = isinstance(output, tuple)
        first = output[0] if several else output
        changed = function(first) if isinstance(first, Tensor) else None
        if changed is None:
            return None
        return (changed, *output[1:]) if several else changed

    return module.register_forward_hook(hook)
