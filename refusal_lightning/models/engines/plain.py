"""A Hugging Face model that the user has loaded, as it is: hooks by TransformerLens names on its own modules.

Nothing of the model is changed or copied. Where its hook points are is known of its architecture (``layout_of``); what
they see is proved on the model itself (``block_facts``).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from refusal_lightning.errors import UserError
from refusal_lightning.models.blocks import BlockFacts
from refusal_lightning.models.engines.facts import block_facts
from refusal_lightning.models.engines.layout import Layout, layout_of
from refusal_lightning.models.engines.places import Place, PlacedHooks, hooks_at
from refusal_lightning.models.engines.protocol import HookPairs
from refusal_lightning.models.tokens import token_positions


@dataclass(frozen=True, eq=False)
class PlainEngine(PlacedHooks):
    """A user's own Hugging Face model."""

    model: Any
    layout: Layout
    places: Mapping[str, Place]
    facts: BlockFacts
    flat: frozenset[str] = frozenset()
    """Hook points whose module gives ``[row * token, d_model]`` (OPT's MLP); hook functions see them as the others."""
    kind: str = "plain"

    @property
    def n_layers(self) -> int:
        return self.layout.n_layers

    @property
    def input_device(self) -> torch.device:
        device: torch.device = self.model.get_input_embeddings().weight.device
        return torch.device("cpu") if device.type == "meta" else device  # off-loaded: accelerate brings the ids there

    @contextmanager
    def hooks(self, fwd_hooks: HookPairs) -> Iterator[None]:
        pairs = [(name, _scaled(function, self.layout.points[name].scale)) for name, function in fwd_hooks]
        if self.flat:
            pairs = _whole(pairs, self.flat)
        # Compiled code is made for the hooks that were on then; `generate` with a static cache compiles unasked.
        with torch.compiler.set_stance("force_eager"), hooks_at(self.places, pairs):
            yield

    def __call__(
        self,
        ids: Int[Tensor, "prompt token"],
        attention_mask: Int[Tensor, "prompt token"] | None = None,
        logits_to_keep: int = 0,
    ) -> Float[Tensor, "prompt token vocab"]:
        given: dict[str, Any] = {"attention_mask": attention_mask}
        taken = inspect.signature(self.model.forward).parameters
        if attention_mask is not None and "position_ids" in taken:
            given["position_ids"] = token_positions(attention_mask)
        if logits_to_keep and "logits_to_keep" in taken:
            given["logits_to_keep"] = logits_to_keep
        logits: Tensor = self.model(input_ids=ids, use_cache=False, **given).logits
        return logits[:, -logits_to_keep:]


def plain_engine(model: Any) -> PlainEngine:
    """A Hugging Face model with a language model's head, on whatever devices, as an engine.

    At the first call for a model it runs a small pass. Raises UserError where no direction can be ablated in it, or
    where it is not known where its hook points are.
    """
    if (kept := _KEPT.get(model)) is not None and (places := _places(model, kept[0])) is not None:
        layout, facts, flat = kept
        return PlainEngine(model, layout, places, facts, flat)
    _require_decoder(model)
    layout = layout_of(model)
    if (places := _places(model, layout)) is None:
        raise UserError(
            f"{type(model).__name__}: its modules are not those of its configuration ({layout.n_layers} layers), so "
            "where hooks go is not known; hand over the model as it was loaded"
        )
    engine = PlainEngine(model, layout, places, BlockFacts((), False, None))
    with _evaluating(model):
        engine = replace(engine, flat=_flat(engine))
        engine = replace(engine, facts=block_facts(engine, layout.d_model))
    if engine.facts.problem is not None:
        raise UserError(f"{type(model).__name__}: no direction can be ablated here: {engine.facts.problem}")
    _KEPT[model] = layout, engine.facts, engine.flat
    return engine


_KEPT: WeakKeyDictionary[nn.Module, tuple[Layout, BlockFacts, frozenset[str]]] = WeakKeyDictionary()
"""What was found out about each model, as long as it lives; no modules, which would keep it alive."""


@torch.no_grad()
def _flat(engine: PlainEngine) -> frozenset[str]:
    """Hook points whose activation has lost the axis of tokens, found in a small pass."""
    found = set()

    def look(name: str) -> Callable[[Any, Any], None]:
        def see(activation: Any, hook: Any) -> None:
            if isinstance(activation, Tensor) and activation.ndim == 2:
                found.add(name)

        return see

    with engine.hooks(fwd_hooks=[(name, look(name)) for name in engine.hook_names]):
        engine(torch.arange(8, device=engine.input_device).view(2, 4))
    return frozenset(found)


def _whole(pairs: HookPairs, flat: frozenset[str]) -> list[tuple[str, Callable[[Tensor, Any], Any]]]:
    """The pairs, whose functions see flattened activations in the shape of their block's input."""
    shapes: dict[str, torch.Size] = {}

    def remember(begins: str) -> Callable[[Tensor, Any], None]:
        def look(activation: Tensor, hook: Any) -> None:
            shapes[begins] = activation.shape

        return look

    def unflattened(begins: str, function: Callable[[Tensor, Any], Any]) -> Callable[[Tensor, Any], Any]:
        def act(activation: Tensor, hook: Any) -> Any:
            changed = function(activation.reshape(shapes[begins]), hook)
            return None if changed is None else changed.reshape(activation.shape)

        return act

    begins = {name: f"{name.rpartition('.')[0]}.hook_resid_pre" for name in flat}
    needed = sorted({begins[name] for name, _ in pairs if name in flat})
    return [
        *((name, remember(name)) for name in needed),
        *((name, unflattened(begins[name], act) if name in flat else act) for name, act in pairs),
    ]


def _scaled(function: Callable[[Tensor, Any], Any], scale: float) -> Callable[[Tensor, Any], Any]:
    """A hook function that sees what is added to the stream, where that is a module's output times a scale."""
    if scale == 1.0:
        return function

    def hook(activation: Tensor, hook: Any) -> Any:
        changed = function(activation * scale, hook)
        return None if changed is None else changed / scale

    return hook


def _places(model: nn.Module, layout: Layout) -> dict[str, Place] | None:
    """The modules; None where the model is not of that layout (any more)."""
    try:
        places = {name: (model.get_submodule(point.path), point.side) for name, point in layout.points.items()}
    except AttributeError:
        return None
    parent = model.get_submodule(layout.points["blocks.0.hook_resid_pre"].path.rpartition(".")[0])
    return places if len(list(parent.children())) == layout.n_layers else None


def _require_decoder(model: Any) -> None:
    name, config = type(model).__name__, getattr(model, "config", None)
    if config is None or not hasattr(model, "get_input_embeddings"):
        raise UserError(f"{name} is no Hugging Face model; interventions act on decoder-only language models")
    if getattr(config, "is_encoder_decoder", False):
        raise UserError(f"{name} is an encoder-decoder; interventions act on decoder-only language models")
    if model.get_output_embeddings() is None:
        raise UserError(f"{name} has no language model's head; load it by AutoModelForCausalLM")
    if any(p.device.type == "meta" for p in model.parameters()) and not hasattr(model, "hf_device_map"):
        raise UserError(f"{name} has no weights yet (it is on the meta device); load them first")


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """No dropout for the body; each module is in its own mode again at the end."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
