"""Interventions by name: what the configuration may ask for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from refusal_lightning.interventions import BASELINE, Intervention, ablation, addition


@dataclass(frozen=True)
class KeyedIntervention:
    """An intervention as run on one kind of prompts, and a description that its results' keys are made of."""

    intervention: Intervention
    depends_on: list[Any]


def build_intervention(name: str, direction: torch.Tensor, layer: int, kind: str) -> KeyedIntervention:
    """An intervention by name. Addition: -1 on harmful prompts (bypass), +1 on harmless ones (induce)."""
    values = direction.tolist()
    if name == "ablation":
        return KeyedIntervention(ablation(direction), [name, values])
    if name == "actadd":
        coefficient = -1.0 if kind == "harmful" else 1.0
        return KeyedIntervention(addition(direction, layer, coefficient), [name, values, layer, coefficient])
    return KeyedIntervention(BASELINE, [name])
