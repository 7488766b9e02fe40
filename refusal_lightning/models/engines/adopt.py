"""The engine of a model that the user brings: a Hugging Face model, in whatever it is wrapped, or a bridge."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from refusal_lightning.errors import UserError
from refusal_lightning.models.blocks import BlockFacts
from refusal_lightning.models.engines.bridge import BridgeEngine, bridge_engine
from refusal_lightning.models.engines.plain import plain_engine
from refusal_lightning.models.engines.protocol import Engine


def engine_of(model: Any) -> Engine:
    """A Hugging Face causal language model or a TransformerBridge as an engine; nothing of it is changed or copied.

    A model within PEFT, nnsight or ``torch.compile`` is taken out of it: hooks on its modules act there too. The first
    call for a model runs a small pass. Raises UserError for what is neither, and where it is not known where
    interventions would act.
    """
    model = _unwrapped(model)
    if not isinstance(model, nn.Module):
        raise UserError(
            f"interventions act on a model of rl.load_model, a Hugging Face model or a TransformerBridge; a "
            f"{type(model).__name__} is none"
        )
    return _engine_of_bridge(model) if _is_bridge(model) else plain_engine(model)


def _unwrapped(model: Any) -> Any:
    """The Hugging Face model or bridge within."""
    while True:
        if type(model).__module__.partition(".")[0] == "nnsight":
            inner = vars(model).get("_module")
        elif _is_bridge(model):
            inner = None
        elif (inner := getattr(model, "_orig_mod", None)) is None and hasattr(model, "get_base_model"):
            inner = model.get_base_model()
        if inner is None or inner is model:
            return model
        model = inner


def _is_bridge(model: Any) -> bool:
    return any(base.__module__.startswith("transformer_lens.") for base in type(model).__mro__)


_FACTS: WeakKeyDictionary[nn.Module, BlockFacts] = WeakKeyDictionary()
"""What was found out about each bridge, as long as it lives."""


def _engine_of_bridge(bridge: Any) -> BridgeEngine:
    device = torch.device(str(bridge.cfg.device))
    device = torch.device("cpu") if device.type == "meta" else device
    if bridge in _FACTS:
        return BridgeEngine(bridge, _FACTS[bridge], device)
    engine = bridge_engine(bridge, device)
    if engine.facts.problem is not None:
        raise UserError(f"{type(engine.model).__name__}: no direction can be ablated here: {engine.facts.problem}")
    _FACTS[bridge] = engine.facts
    return engine
