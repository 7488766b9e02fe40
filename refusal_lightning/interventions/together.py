"""Several interventions as one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from refusal_lightning.interventions.intervention import BASELINE, HookFunction, Intervention


def together(interventions: Sequence[Intervention]) -> Intervention:
    """All of them: at each hook one after another, in their order; none is the baseline.

    A single one is itself.
    """
    if len(interventions) < 2:
        return interventions[0] if interventions else BASELINE

    def hooks(n_layers: int) -> list[tuple[str, HookFunction]]:
        return [pair for each in interventions for pair in each.hooks(n_layers)]

    def everywhere(layer: int) -> HookFunction | None:
        acting = [each.everywhere(layer) for each in interventions if each.everywhere is not None]
        return one_after_another([function for function in acting if function is not None])

    anywhere: Callable[[int], HookFunction | None] | None = everywhere
    if not any(each.everywhere for each in interventions):
        anywhere = None
    return Intervention("+".join(each.name for each in interventions), hooks, everywhere=anywhere)


def one_after_another(functions: Sequence[HookFunction]) -> HookFunction | None:
    """One hook function that is all of them in their order; None where there is none."""
    if len(functions) < 2:
        return functions[0] if functions else None

    def hook(activation: Tensor, hook: Any) -> Tensor:
        for function in functions:
            activation = function(activation, hook)
        return activation

    return hook
