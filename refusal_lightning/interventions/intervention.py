"""The two interventions of the paper: directional ablation (section 2.4, eq. 4) and activation addition (eq. 3)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from refusal_lightning.errors import UserError
from refusal_lightning.models.blocks import STREAM
from refusal_lightning.models.engines.protocol import Engine

HookFunction = Callable[[Tensor, Any], Tensor]


@dataclass(frozen=True)
class Intervention:
    """A named set of hooks: ``hooks(n_layers)`` gives (hook name, function) pairs; baseline gives none.

    A function ``(activation, hook)`` takes ``[row, token, d_model]`` and gives the like, each row and token by
    itself, since batches, padding and a beginning that prompts share differ between passes. ``ablated`` and ``added``
    say the same as values, where that is all that the hooks do; then rows under several interventions are changed in
    one go (``RowInterventions``).
    """

    name: str
    hooks: Callable[[int], Sequence[tuple[str, HookFunction]]]
    ablated: Float[Tensor, " d_model"] | None = None
    """The unit direction projected out at every write, float64."""
    added: tuple[int, Float[Tensor, " d_model"]] | None = None
    """A layer, and the vector added to its ``resid_pre``, float64."""
    everywhere: Callable[[int], HookFunction | None] | None = None
    """By layer, what acts at all its writes, if anything; where a model writes unseen, it acts as well wherever the
    layer's stream can be reached, so it must come to the same when it acts twice."""


@dataclass(frozen=True)
class KeyedIntervention:
    """An intervention, and what results under it depend on, as JSON takes it: their keys are made of that."""

    intervention: Intervention
    depends_on: Sequence[Any] = ()


BASELINE = Intervention("baseline", lambda n_layers: ())


def ablation(direction: Float[Tensor, " d_model"]) -> Intervention:
    """Directional ablation: x - r (r.x), r the unit direction, at every write into the residual stream.

    The writes are the embedding (the first block's input) and each block's attention and MLP output, as added to
    the stream (after a post-norm, where a family has one). The stream is a sum of writes, so every later
    ``resid_pre``, ``resid_mid`` and ``resid_post`` is orthogonal to r without a projection of its own. Where a block
    has a third write (a Mamba branch, per-layer inputs), those are projected too, which comes to the same.
    """
    unit = unit_direction(direction)
    return replace(at_every_write("ablation", project_out(unit)), ablated=unit)


def unit_direction(direction: Float[Tensor, "*row d_model"]) -> Float[Tensor, "*row d_model"]:
    """The direction over its norm, float64; the paper's epsilon lets zero stay zero."""
    direction = direction.detach().to(torch.float64)
    return direction / (direction.norm(dim=-1, keepdim=True) + 1e-8)


def at_every_write(name: str, hook: HookFunction, first_layer: int = 0) -> Intervention:
    """One hook function, which comes to the same when it acts twice, at every write into the residual stream.

    With a ``first_layer``, at what that layer gets, and at every write from there on.
    """

    def hooks(n_layers: int) -> list[tuple[str, HookFunction]]:
        writes = [f"blocks.{first_layer}.hook_resid_pre"]
        for layer in range(first_layer, n_layers):
            writes += [f"blocks.{layer}.hook_attn_out", f"blocks.{layer}.hook_mlp_out"]
        return [(write, hook) for write in writes]

    return Intervention(name, hooks, everywhere=lambda layer: hook if layer >= first_layer else None)


def addition(vector: Float[Tensor, " d_model"], layer: int, coefficient: float) -> Intervention:
    """Activation addition: x + c v at one layer's ``resid_pre``, all positions; v is used as it is, not normalised."""
    scaled = coefficient * vector.detach().to(torch.float64)

    def add(activation: Tensor, hook: Any) -> Tensor:
        return activation + scaled.to(activation)

    return Intervention("actadd", lambda n_layers: [(f"blocks.{layer}.hook_resid_pre", add)], added=(layer, scaled))


def project_out(unit: Float[Tensor, " d_model"]) -> HookFunction:
    """x - r (r.x) for a unit direction, in the dtype of x."""

    def project(activation: Tensor, hook: Any) -> Tensor:
        # Half-precision streams are projected in float32: the product r.x loses too many bits otherwise.
        wide = activation if activation.dtype in (torch.float32, torch.float64) else activation.float()
        r = unit.to(wide)
        return (wide - (wide @ r).unsqueeze(-1) * r).to(activation.dtype)

    return project


@contextmanager
def intervene(engine: Engine, intervention: Intervention) -> Iterator[None]:
    """Run the body with the intervention's hooks on the model; they come off at the end, also after an exception."""
    pairs = list(intervention.hooks(engine.n_layers))
    if intervention.everywhere is not None and not engine.facts.adds_up:
        pairs = _at_the_stream(pairs, intervention.everywhere, engine)
    known = engine.hook_names if pairs else ()
    for name, _ in pairs:
        if name not in known:
            raise UserError(f"{intervention.name} needs the hook {name}, which this model's architecture does not have")
    with engine.hooks(fwd_hooks=pairs):
        yield


def _at_the_stream(
    pairs: Sequence[tuple[str, HookFunction]], everywhere: Callable[[int], HookFunction | None], engine: Engine
) -> list[tuple[str, HookFunction]]:
    """The pairs that there are hooks for, and before them ``everywhere`` at every block's input, middle and output.

    So whatever writes into the stream, what reads it gets it with ``everywhere`` applied. Raises UserError where the
    stream cannot be reached.
    """
    known = set(engine.hook_names)
    streams: dict[str, HookFunction] = {}
    for layer in range(engine.n_layers):
        if (hook := everywhere(layer)) is not None:
            streams |= {f"blocks.{layer}.hook_{point}": hook for point in STREAM}
    streams = {name: hook for name, hook in streams.items() if not name.endswith("mid") or name in known}
    if missing := sorted(set(streams) - known):
        raise UserError(f"this model writes into the residual stream unseen, and has no hook {missing[0]}")
    kept = [(name, hook) for name, hook in pairs if name in known and hook is not streams.get(name)]
    return [*streams.items(), *kept]
