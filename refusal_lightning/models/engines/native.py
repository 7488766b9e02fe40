"""A causal language model for decoding, with hooks by TransformerLens names.

TransformerBridge puts its own modules in place of the model's, which costs 0.5 to 0.8 ms per layer and pass: more than
the arithmetic of a decoding step on small batches. Here the Hugging Face model is put together once more as its
authors wrote it, from the bridge's own weights (nothing is copied), and ordinary PyTorch hooks stand where the bridge
has its hook points. Where each stands is read off the bridge, and both models' activations there are compared before
the fast one is used.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from refusal_lightning.models.blocks import STREAM, BlockFacts, block_facts

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

POINTS = ("resid_pre", "attn_out", "mlp_out")
"""The hook points of a block that interventions act at; where blocks write to the stream unseen, ``STREAM`` too."""
WRAPPER = "._original_component"
TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-3}
"""Largest relative error (norms) of an activation against the bridge's; half precision: 0.1. Rounding stays well
below it, and a hook on the wrong side of a norm far above it."""

HookPairs = Sequence[tuple[str, Callable[[Tensor, Any], Any]]]


@dataclass(frozen=True)
class HookedModel:
    """A model to call as Hugging Face's are called, and hooks on it, as ``TransformerBridge`` takes them."""

    model: Any
    cfg: Any
    hook_dict: Mapping[str, Any]
    hooks: Callable[..., AbstractContextManager[Any]]
    facts: BlockFacts
    kind: str
    """How it is run: sdpa or eager (Hugging Face's own modules with that attention), or bridge."""


def hooked_model(bridge: TransformerBridge) -> HookedModel:
    """The fastest model that agrees with the bridge; the bridge itself where no other does."""
    for attention in ("sdpa", "eager"):
        try:
            made = _native(bridge, attention)
            if _agrees(made, bridge):
                return made
        except Exception:  # whatever an architecture's code makes of this, the bridge can be relied on
            continue
    return bridged_model(bridge)


def bridged_model(bridge: TransformerBridge) -> HookedModel:
    """The bridge in the same clothes."""
    return HookedModel(bridge.original_model, bridge.cfg, bridge.hook_dict, bridge.hooks, block_facts(bridge), "bridge")


def _native(bridge: TransformerBridge, attention: str) -> HookedModel:
    """Hugging Face's modules around the bridge's weights. Raises LookupError where a name is on one side only."""
    original: Any = bridge.original_model
    config = copy.deepcopy(original.config)
    config.output_attentions = False  # the bridge's wish
    with torch.device("meta"):
        model = type(original)._from_config(config, attn_implementation=attention)
    tensors = {
        name.replace(WRAPPER, ""): tensor
        for named in (original.named_buffers, original.named_parameters)
        for name, tensor in named(remove_duplicate=False)
    }
    for module_name, module in model.named_modules():
        for kept in (module._parameters, module._buffers):
            for name, blank in kept.items():
                if blank is not None:
                    found = tensors[f"{module_name}.{name}" if module_name else name]
                    if found.shape != blank.shape:
                        raise LookupError(name)
                    kept[name] = found
    model.eval()
    owners = {
        id(point): (name.replace(WRAPPER, ""), side)
        for name, module in original.named_modules()
        for side in ("hook_in", "hook_out")
        if (point := module._modules.get(side)) is not None
    }
    facts = block_facts(bridge)
    places = {}
    for layer in range(bridge.cfg.n_layers):
        for point in dict.fromkeys(POINTS if facts.adds_up else (*POINTS, *STREAM)):
            hook_name = f"blocks.{layer}.hook_{point}"
            if hook_name in bridge.hook_dict:
                path, side = owners[id(bridge.hook_dict[hook_name])]
                places[hook_name] = (model.get_submodule(path), side)

    @contextmanager
    def hooks(fwd_hooks: HookPairs) -> Iterator[None]:
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

    return HookedModel(model, bridge.cfg, places, hooks, facts, attention)


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


@torch.inference_mode()
def _agrees(made: HookedModel, bridge: TransformerBridge) -> bool:
    """Whether activations at every hook point, and the logits, are the bridge's on a padded batch of two rows."""
    weight = next(made.model.parameters())
    vocabulary = made.model.get_input_embeddings().weight.shape[0]
    ids = (torch.arange(24, device=weight.device).view(2, 12) * 97 + 5) % vocabulary
    mask = torch.ones_like(ids)
    mask[1, :5] = 0
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    kept = mask.bool()
    seen: list[dict[str, Tensor]] = []
    for model in (bridged_model(bridge), made):
        found: dict[str, Tensor] = {}
        pairs = [(name, _recorder(found, name)) for name in made.hook_dict]
        with model.hooks(fwd_hooks=pairs):
            out = model.model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False)
        found["logits"] = out.logits
        seen.append({name: tensor[kept].float() for name, tensor in found.items()})
    tolerance = TOLERANCE.get(weight.dtype, 0.1)
    expected, got = seen
    return expected.keys() == got.keys() and all(
        bool((got[name] - expected[name]).norm() <= tolerance * expected[name].norm()) for name in expected
    )


def _recorder(found: dict[str, Tensor], name: str) -> Callable[[Tensor, Any], None]:
    def record(activation: Tensor, hook: Any) -> None:
        found[name] = activation.clone()

    return record
