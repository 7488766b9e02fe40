"""``rl.ablate``, ``rl.add``, ``rl.intervene``: what acts on a model during the body of a ``with`` statement.

The model may be one of ``rl.load_model``, a plain Hugging Face causal language model (as it is, in PEFT, in nnsight, or
spread by ``device_map``), or a TransformerBridge. On the latter two an intervention is a set of ordinary PyTorch hooks:
it acts in whatever runs the model, ``generate``, a trace, ``run_with_cache``. Hooks come off at the end of the body,
also after an exception; interventions that are nested act in the order in which they were entered.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from refusal_lightning.api.model import Model
from refusal_lightning.directions.direction import Direction
from refusal_lightning.errors import UserError
from refusal_lightning.interventions import Intervention, KeyedIntervention, ablation, addition
from refusal_lightning.interventions import intervene as hooks_of
from refusal_lightning.interventions.registry import INTERVENTIONS, build_intervention
from refusal_lightning.models.engines.adopt import engine_of


@contextmanager
def ablate(model: Any, direction: Any) -> Iterator[None]:
    """Directional ablation (arXiv:2406.11717, section 2.4, eq. 4): x' = x - r (r . x), at every token.

    r is the direction over its norm. x is what is written into the residual stream: the embedding, and each block's
    attention and MLP output as it is added, behind a post-norm where a family has one (Gemma 2 and 3, OLMo 2); where a
    block writes something else besides (Falcon-H1's Mamba branch), the stream itself. So no block reads anything
    along r.

        with rl.ablate(model, direction):
            model.generate(...)

    ``model``: see the module. ``direction``: a ``Direction``, or a torch, numpy or plain vector of ``d_model`` finite
    numbers, not all zero; its length does not matter. Raises UserError, which names what is wrong: another width, a
    direction of another model, a model that is no decoder-only language model or whose hook points are not known.
    """
    target = _target(model)
    with target.under(KeyedIntervention(ablation(_vector(direction, target, nonzero=True)))):
        yield


@contextmanager
def add(model: Any, direction: Any, *, layer: int | None = None, coefficient: float = 1.0) -> Iterator[None]:
    """Activation addition (arXiv:2406.11717, section 2.4, eq. 3): x' = x + c r at one layer's input, at every token.

    r is used as it is, in the units of the residual stream: the mean difference of the two kinds' activations, where
    it is a ``Direction``. ``coefficient`` is c: 1 induces refusal, -1 bypasses it. ``layer`` is the number of the block
    whose input it is added to, from 0; by default the ``Direction``'s own.

        with rl.add(model, direction, coefficient=-1.0):
            model.generate(...)

    ``model`` and ``direction`` are as for ``ablate``. Raises UserError as that does, and for a layer that the model
    does not have or a coefficient that is no finite number.
    """
    target = _target(model)
    vector, place = _vector(direction, target), _layer(direction, layer, target)
    if not isinstance(coefficient, int | float) or not math.isfinite(coefficient):
        raise UserError(f"coefficient is {coefficient!r}; it must be a finite number")
    with target.under(KeyedIntervention(addition(vector, place, coefficient), [place, coefficient])):
        yield


@contextmanager
def intervene(
    model: Any,
    intervention: str | Intervention | KeyedIntervention,
    direction: Any = None,
    *,
    layer: int | None = None,
    role: str = "harmful",
) -> Iterator[None]:
    """Any intervention: a registered one by its name, a plugin's too, or one that was built.

        with rl.intervene(model, "actadd", direction, role="harmless"):
            model.generate(...)

    With a name, ``direction`` and ``layer`` are those it is built with, as for ``add``, and ``role`` says which prompts
    it is meant for, ``harmful`` or ``harmless``: activation addition bypasses refusal on the first and induces it on
    the second. An ``Intervention`` or ``KeyedIntervention`` has all of that in it. Raises UserError as ``add`` does,
    for a name that is not registered, and for an intervention that needs a hook which the model does not have.
    """
    target = _target(model)
    if isinstance(intervention, str):
        intervention = _registered(intervention, direction, layer, role, target)
    elif direction is not None or layer is not None:
        raise UserError("direction and layer go with the name of an intervention; one that was built has its own")
    if isinstance(intervention, Intervention):
        intervention = KeyedIntervention(intervention)
    if not isinstance(intervention, KeyedIntervention):
        raise UserError(f"a {type(intervention).__name__} is no intervention; there are {', '.join(INTERVENTIONS)}")
    with target.under(intervention):
        yield


@dataclass(frozen=True)
class _Target:
    """A model to act on."""

    name: str
    n_layers: int
    d_model: int
    device: torch.device
    """Where vectors are best kept."""
    model: Model | None
    under: Callable[[KeyedIntervention], AbstractContextManager[Any]]


def _target(model: Any) -> _Target:
    if isinstance(model, Model):
        return _Target(model.name, model.n_layers, model.d_model, torch.device("cpu"), model, model.under)
    engine = engine_of(model)
    config = engine.model.config.get_text_config()
    # On the GPU no copy waits for it; other accelerators have no float64.
    device = engine.input_device if engine.input_device.type == "cuda" else torch.device("cpu")
    return _Target(
        type(engine.model).__name__,
        engine.n_layers,
        config.hidden_size,
        device,
        None,
        lambda keyed: hooks_of(engine, keyed.intervention),
    )


def _registered(name: str, direction: Any, layer: int | None, role: str, target: _Target) -> KeyedIntervention:
    if role not in ("harmful", "harmless"):
        raise UserError(f"role is {role!r}; it must be harmful or harmless")
    if not INTERVENTIONS[name].needs_direction and direction is None:
        return build_intervention(name, torch.zeros(target.d_model, dtype=torch.float64), layer or 0, role)
    if direction is None:
        raise UserError(f"the intervention {name} needs a direction")
    return build_intervention(name, _vector(direction, target), _layer(direction, layer, target), role)


def _vector(direction: Any, target: _Target, nonzero: bool = False) -> Float[Tensor, " d_model"]:
    """Its vector, float64. Raises UserError where it is none, or not one of this model."""
    if isinstance(direction, Direction):
        if target.model is not None:
            direction.require_fits(target.model)
        direction.require_shape(target.n_layers, target.d_model, target.name)
        direction = direction.vector
    try:
        vector = torch.as_tensor(direction).detach().to("cpu", torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"a {type(direction).__name__} is no direction; it must be a vector of numbers") from error
    if tuple(vector.shape) != (target.d_model,):
        raise UserError(
            f"the direction has the shape {tuple(vector.shape)}; {target.name} needs a vector of width {target.d_model}"
        )
    if not vector.isfinite().all():
        raise UserError("the direction has entries that are no finite numbers")
    if nonzero and not vector.any():
        raise UserError("the direction is zero, which is no direction to ablate")
    return vector.to(target.device)


def _layer(direction: Any, layer: int | None, target: _Target) -> int:
    if layer is None:
        if not isinstance(direction, Direction):
            raise UserError("a vector does not say which layer it is of; give layer, a number from 0")
        layer = direction.layer
    if isinstance(layer, bool) or not isinstance(layer, int) or not 0 <= layer < target.n_layers:
        raise UserError(f"layer is {layer!r}; {target.name} has the layers 0 to {target.n_layers - 1}")
    return layer
