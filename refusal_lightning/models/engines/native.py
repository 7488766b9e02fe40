"""A causal language model as its authors wrote it, with hooks by TransformerLens names.

TransformerBridge puts its own modules in place of the model's, which costs 0.5 to 0.8 ms per layer and pass: more than
the arithmetic of a decoding step on small batches. Here the Hugging Face model is put together once more from the
bridge's own weights (nothing is copied), and ordinary PyTorch hooks stand where the bridge has its hook points. Where
each stands is read off the bridge.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from refusal_lightning.models.blocks import STREAM, BlockFacts
from refusal_lightning.models.engines.bridge import BridgeEngine
from refusal_lightning.models.engines.places import Place, PlacedHooks, hooks_at
from refusal_lightning.models.engines.protocol import HookPairs
from refusal_lightning.models.tokens import token_positions

POINTS = ("resid_pre", "attn_out", "mlp_out")
"""The hook points of a block that interventions act at; where blocks write to the stream unseen, ``STREAM`` too."""
WRAPPER = "._original_component"


@dataclass(frozen=True, eq=False)
class NativeEngine(PlacedHooks):
    """Hugging Face's own modules with one implementation of attention, which is its ``kind``: sdpa or eager."""

    model: Any
    kind: str
    facts: BlockFacts
    input_device: torch.device
    places: Mapping[str, Place]
    """Of each hook name."""

    @property
    def n_layers(self) -> int:
        return len(self.facts.n_given)

    def hooks(self, fwd_hooks: HookPairs) -> AbstractContextManager[Any]:
        return hooks_at(self.places, fwd_hooks)

    def __call__(
        self,
        ids: Int[Tensor, "prompt token"],
        attention_mask: Int[Tensor, "prompt token"] | None = None,
        logits_to_keep: int = 0,
    ) -> Float[Tensor, "prompt token vocab"]:
        logits: Tensor = self.model(
            input_ids=ids,
            attention_mask=attention_mask,
            position_ids=None if attention_mask is None else token_positions(attention_mask),
            use_cache=False,
            logits_to_keep=logits_to_keep,
        ).logits
        return logits


def native_engine(reference: BridgeEngine, attention: str) -> NativeEngine:
    """Hugging Face's modules around the bridge's weights. Raises LookupError where a name is on one side only."""
    original = reference.model
    model = _around_the_weights(original, attention)
    owners = {
        id(point): (name.replace(WRAPPER, ""), side)
        for name, module in original.named_modules()
        for side in ("hook_in", "hook_out")
        if (point := module._modules.get(side)) is not None
    }
    known, places = reference.bridge.hook_dict, {}
    for layer in range(reference.n_layers):
        for point in dict.fromkeys(POINTS if reference.facts.adds_up else (*POINTS, *STREAM)):
            hook_name = f"blocks.{layer}.hook_{point}"
            if hook_name in known:
                path, side = owners[id(known[hook_name])]
                places[hook_name] = (model.get_submodule(path), side)
    return NativeEngine(model, attention, reference.facts, reference.input_device, places)


def _around_the_weights(original: Any, attention: str) -> Any:
    """A model of the same class whose parameters and buffers are those of the bridge's modules."""
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
    return model.eval()
