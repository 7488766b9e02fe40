"""Ordinary PyTorch hooks where a model's own modules have the hook points of TransformerLens."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from refusal_lightning.models.engines.protocol import HookPairs

Place = tuple[nn.Module, str]
"""Where a hook goes: a module, and ``hook_in`` or ``hook_out``."""


class PlacedHooks(ABC):
    """What engines share that hook a model's own modules: all that follows from where their hook points are."""

    places: Mapping[str, Place]
    """Of each hook name."""

    @property
    @abstractmethod
    def n_layers(self) -> int: ...

    @property
    def blocks(self) -> Sequence[nn.Module]:
        return [self.places[f"blocks.{layer}.hook_resid_pre"][0] for layer in range(self.n_layers)]

    @property
    def hook_names(self) -> Collection[str]:
        return self.places.keys()

    def count_hooks(self) -> int:
        """Hooks that are on the modules of these places."""
        modules = {id(module): module for module, _ in self.places.values()}.values()
        return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in modules)


@contextmanager
def hooks_at(places: Mapping[str, Place], fwd_hooks: HookPairs) -> Iterator[None]:
    """Hooks at named places for the body; they come off at its end, also after an exception."""
    handles = []
    try:
        for name, function in fwd_hooks:
            module, side = places[name]
            register = _before if side == "hook_in" else _after
            handles.append(register(module, function))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _before(module: nn.Module, function: Callable[[Tensor, Any], Any]) -> Any:
    """A hook on a module's input, the hidden states, in whichever way they are handed in."""

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        given = args[0] if args else kwargs["hidden_states"]
        changed = function(given, None)
        if changed is None:
            return None
        return ((changed, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": changed})

    return module.register_forward_pre_hook(hook, with_kwargs=True)


def _after(module: nn.Module, function: Callable[[Tensor, Any], Any]) -> Any:
    """A hook on a module's output, or on the first of several."""

    def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        several = isinstance(output, tuple)
        changed = function(output[0] if several else output, None)
        if changed is None:
            return None
        return (changed, *output[1:]) if several else changed

    return module.register_forward_hook(hook)
