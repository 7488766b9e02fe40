"""Interventions by name: what a configuration may ask for, and what tables call it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor

from refusal_lightning.interventions.intervention import BASELINE, KeyedIntervention, ablation, addition
from refusal_lightning.registry import Registry


@dataclass(frozen=True)
class InterventionSpec:
    """An entry of the registry."""

    label: str
    """What tables and the report call it."""
    build: Callable[[Float[Tensor, " d_model"], int, str], KeyedIntervention]
    """``build(direction, layer, role)``: the intervention on prompts in the place of ``role``, harmful or harmless.

    Its ``depends_on`` is what tells its results from others beside its name, the direction and a plugin's content: a
    layer, a coefficient, a version of its code.
    """
    needs_direction: bool = True
    """Whether it acts along the direction; results under one that does not outlive the choice of another."""


def _baseline(direction: Float[Tensor, " d_model"], layer: int, role: str) -> KeyedIntervention:
    return KeyedIntervention(BASELINE)


def _ablation(direction: Float[Tensor, " d_model"], layer: int, role: str) -> KeyedIntervention:
    return KeyedIntervention(ablation(direction))


def _actadd(direction: Float[Tensor, " d_model"], layer: int, role: str) -> KeyedIntervention:
    """-1 on harmful prompts (bypass), +1 on harmless ones (induce)."""
    coefficient = -1.0 if role == "harmful" else 1.0
    return KeyedIntervention(addition(direction, layer, coefficient), [layer, coefficient])


INTERVENTIONS: Registry[InterventionSpec] = Registry(
    "intervention",
    {
        BASELINE.name: InterventionSpec("baseline", _baseline, needs_direction=False),
        "ablation": InterventionSpec("ablation", _ablation),
        "actadd": InterventionSpec("activation addition", _actadd),
    },
)
"""The interventions that `evaluate` and `capability` run, in the order of their columns in tables."""


def build_intervention(name: str, direction: Float[Tensor, " d_model"], layer: int, role: str) -> KeyedIntervention:
    """A registered intervention under its own name, with all that its results depend on: of a plugin's, the file too.

    Raises UserError.
    """
    spec = INTERVENTIONS[name]
    made = spec.build(direction, layer, role)
    along = [direction.tolist()] if spec.needs_direction else []
    origin = [INTERVENTIONS.origin(name)] if INTERVENTIONS.origin(name) else []
    return KeyedIntervention(replace(made.intervention, name=name), [name, *along, *made.depends_on, *origin])


def in_columns(names: Iterable[str]) -> list[str]:
    """Names in the order of a table's columns: as they are registered, then those that are not, as given."""
    given = list(dict.fromkeys(names))
    return [name for name in INTERVENTIONS if name in given] + [name for name in given if name not in INTERVENTIONS]


def label_of(name: str) -> str:
    """What tables call an intervention: its own name where it is not registered now, as in a run of other plugins."""
    return INTERVENTIONS[name].label if name in INTERVENTIONS else name
