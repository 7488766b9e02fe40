"""Where the hook points of a model's architecture are in its own modules, as TransformerLens's adapter of it says.

A bridge is built around a model of the same configuration on the meta device, which holds no weights, and each hook
point is looked up in it.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from refusal_lightning.errors import UserError
from refusal_lightning.io.side_effects import replaced
from refusal_lightning.io.text import one_line
from refusal_lightning.models.blocks import STREAM

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

POINTS = ("attn_out", "mlp_out", *STREAM)
"""The hook points of a block that interventions act at."""


@dataclass(frozen=True)
class Point:
    """Where a hook point is in a model of an architecture."""

    path: str
    side: str
    """``hook_in`` or ``hook_out``."""
    scale: float = 1.0
    """What the module's output is multiplied by before it is added to the stream (Granite)."""


@dataclass(frozen=True)
class Layout:
    """Of a configuration: its sizes, and its hook points by TransformerLens names."""

    n_layers: int
    d_model: int
    points: Mapping[str, Point]


def layout_of(model: Any) -> Layout:
    """Read off a bridge without weights. Raises UserError where TransformerLens does not know the architecture."""
    bridge, names = _bridge_without_weights(model)
    if not hasattr(bridge, "blocks"):
        raise UserError(f"{type(model).__name__}: TransformerLens knows it without a list of blocks")
    paths = _paths_of_points(bridge, names)
    own = {name for name, _ in model.named_modules()}
    known: Mapping[str, Any] = bridge.hook_dict
    points = {}
    for layer, block in enumerate(bridge.blocks):
        for point in POINTS:
            name = f"blocks.{layer}.hook_{point}"
            if name not in known:
                continue
            path, side = paths.get(id(known[name]), ("", ""))
            if path in own and path:
                points[name] = Point(path, side, _scale_of(block, known[name]))
            elif point in STREAM:
                raise UserError(f"{type(model).__name__}: it is not known where its hook {name} is")
    if "blocks.0.hook_resid_pre" not in points:
        raise UserError(f"{type(model).__name__}: it is not known where its blocks begin")
    return Layout(bridge.cfg.n_layers, bridge.cfg.d_model, points)


def _bridge_without_weights(model: Any) -> tuple[TransformerBridge, dict[nn.Module, str]]:
    """A bridge, and the names of the modules in the model that it was put around."""
    from transformer_lens.model_bridge.sources import build_bridge_from_module
    from transformer_lens.model_bridge.supported_architectures import bitnet
    from transformer_lens.utilities import quantization

    config, architecture = copy.deepcopy(model.config), _architecture(model)
    unread = [(module, "unreadable_weight_reason", lambda weight: None) for module in (quantization, bitnet)]
    try:
        # It would refuse to cut a fused projection in three that has no values.
        with warnings.catch_warnings(), replaced(*unread), torch.device("meta"):
            warnings.simplefilter("ignore")  # of hooks that an architecture has not
            shadow = type(model)._from_config(config, attn_implementation="eager")
            names = {module: name for name, module in shadow.named_modules()}
            return build_bridge_from_module(shadow, architecture, hf_config=config, device="meta"), names
    except Exception as error:  # whatever an architecture's code makes of a model without weights
        raise UserError(
            f"{type(model).__name__}: TransformerLens cannot say where its hook points are: "
            f"{type(error).__name__}: {one_line(error)}"
        ) from error


def _architecture(model: Any) -> str:
    """TransformerLens's name of it. Raises UserError where it has none."""
    from transformer_lens.factories.architecture_adapter_factory import SUPPORTED_ARCHITECTURES

    name = type(model).__name__
    for candidate in (name, *(model.config.architectures or ())):
        if candidate in SUPPORTED_ARCHITECTURES:
            return str(candidate)
    similar = [known for known in SUPPORTED_ARCHITECTURES if known.lower() == name.lower()]
    if similar:
        return str(similar[0])
    near = ", ".join(get_close_matches(name, SUPPORTED_ARCHITECTURES, n=3, cutoff=0.0))
    raise UserError(
        f"it is not known where the hook points of {name} are: TransformerLens has no such architecture (it has "
        f"{len(SUPPORTED_ARCHITECTURES)}, the nearest are {near}; docs/models.md lists those that are tested)"
    )


def _paths_of_points(bridge: TransformerBridge, names: Mapping[nn.Module, str]) -> dict[int, tuple[str, str]]:
    """By id of a hook point: the name of the module that it stands at, and the side."""
    paths, modules = {}, list[Any](bridge.modules())
    for module in modules:
        original = module._modules.get("_original_component")
        while original is not None and "_original_component" in original._modules:
            original = original._modules["_original_component"]
        for side in ("hook_in", "hook_out"):
            if original is not None and original in names and (point := module._modules.get(side)) is not None:
                paths[id(point)] = (names[original], side)
    for module in modules:
        if getattr(module, "_placeholder_hooks_wired", False):  # OPT's MLP: two linear layers without a module
            for side, part in (("hook_in", "in"), ("hook_out", "out")):
                if part in module.submodules:
                    paths[id(getattr(module, side))] = paths[id(getattr(module.submodules[part], side))]
    for block in bridge.blocks:
        for point, part in _scaled_points(block):
            paths[id(point)] = paths[id(part.hook_out)]
    return paths


def _scaled_points(block: Any) -> list[tuple[Any, Any]]:
    """Hook points of a block whose writes are scaled, and what writes."""
    if not hasattr(block, "residual_contribution_scale"):
        return []
    names = {"hook_attn_out": block.scaled_attn_submodule, "hook_mlp_out": block.scaled_mlp_submodule}
    return [
        (point, block.submodules[name])
        for hook, name in names.items()
        if name in block.submodules and (point := block._modules.get(hook)) is not None
    ]


def _scale_of(block: Any, point: Any) -> float:
    scaled = any(point is each for each, _ in _scaled_points(block))
    return float(block.residual_contribution_scale) if scaled else 1.0
