"""Interventions with a direction for each row of the batch, so that several candidates or conditions share a pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from refusal_lightning.interventions.intervention import HookFunction, Intervention, at_every_write, unit_direction
from refusal_lightning.interventions.together import one_after_another


def row_ablation(directions: Float[Tensor, "row d_model"]) -> Intervention:
    """``ablation`` with the direction of each row: the first axis of every activation is the row."""
    unit = unit_direction(directions)

    def project(activation: Tensor, hook: Any) -> Tensor:
        return _project_rows(activation, unit)

    return at_every_write("ablation", project)


def _project_rows(activation: Float[Tensor, "row token d_model"], unit: Float[Tensor, "row d_model"]) -> Tensor:
    wide = activation if activation.dtype in (torch.float32, torch.float64) else activation.float()
    r = unit.to(wide)
    if activation.shape[1] == 1:  # a decoding step: a hundred products of one number are no matter for a matrix product
        r = r.unsqueeze(1)
        return torch.addcmul(wide, (wide * r).sum(-1, keepdim=True), r, value=-1).to(activation.dtype)
    r = r.unsqueeze(-1)
    return torch.baddbmm(wide, wide @ r, r.mT, alpha=-1).to(activation.dtype)


def row_addition(vectors: Float[Tensor, "row d_model"], layer: int) -> Intervention:
    """``addition`` at one layer, coefficient 1, of the vector of each row."""
    added = vectors.detach().to(torch.float64).unsqueeze(1)

    def add(activation: Tensor, hook: Any) -> Tensor:
        return activation + added.to(activation)

    return Intervention("actadd", lambda n_layers: [(f"blocks.{layer}.hook_resid_pre", add)])


class RowInterventions:
    """Several interventions in one batch: each row has its own, and ``use`` says which before every pass.

    Those that are given by vectors (``ablated``, ``added``) act together, on all rows at once: a row whose intervention
    has nothing to ablate, or nothing to add, gets the zero vector: x - 0 and x + 0 are x. Those that are given by hook
    functions only act one after another, each on its own rows.
    """

    def __init__(self, interventions: Sequence[Intervention], device: Any, dtype: torch.dtype) -> None:
        vectors = [v for each in interventions for v in (each.ablated, each.added and each.added[1]) if v is not None]
        zero = torch.zeros_like(vectors[0]) if vectors else torch.zeros(0, dtype=torch.float64)
        wide = torch.float64 if dtype == torch.float64 else torch.float32  # what the projection computes in
        self._unit: Tensor | None = None
        if any(each.ablated is not None for each in interventions):
            units = [zero if each.ablated is None else each.ablated for each in interventions]
            self._unit = torch.stack(units).to(device, wide)
        self._added = {
            layer: torch.stack(
                [each.added[1] if each.added and each.added[0] == layer else zero for each in interventions]
            ).to(device, dtype)
            for layer in sorted({each.added[0] for each in interventions if each.added})
        }
        self._by_hooks = {
            number: each for number, each in enumerate(interventions) if each.ablated is None and each.added is None
        }
        self._device = device
        self._row_unit: Tensor | None = None
        self._row_added: dict[int, Tensor] = {}
        self._numbers: Sequence[int] = ()
        self._own_rows: dict[int, Tensor] = {}

    def use(self, numbers: Sequence[int]) -> None:
        """Row i of the next passes is under intervention ``numbers[i]``."""
        of_row = torch.tensor(numbers, dtype=torch.long, device=self._device)
        self._row_unit = None if self._unit is None else self._unit[of_row]
        self._row_added = {layer: vectors[of_row].unsqueeze(1) for layer, vectors in self._added.items()}
        self._numbers, self._own_rows = numbers, {}

    def intervention(self) -> Intervention:
        """Hooks that do to each row what is its own; they go on once, however often the rows change."""

        def project(activation: Tensor, hook: Any) -> Tensor:
            assert self._row_unit is not None
            return _project_rows(activation, self._row_unit)

        def adder(layer: int) -> HookFunction:
            return lambda activation, hook: activation + self._row_added[layer]

        added = [(f"blocks.{layer}.hook_resid_pre", adder(layer)) for layer in self._added]

        def everywhere(layer: int) -> HookFunction | None:
            own = [(n, each.everywhere(layer)) for n, each in self._by_hooks.items() if each.everywhere]
            functions = [self._on_own_rows(n, function) for n, function in own if function is not None]
            return one_after_another([*([] if self._unit is None else [project]), *functions])

        def hooks(n_layers: int) -> list[tuple[str, HookFunction]]:
            writes = at_every_write("", project).hooks(n_layers) if self._unit is not None else ()
            pairs = ((n, name, f) for n, each in self._by_hooks.items() for name, f in each.hooks(n_layers))
            own = [(name, self._on_own_rows(n, function)) for n, name, function in pairs]
            return [*writes, *added, *own]

        return Intervention("rows", hooks, everywhere=everywhere)

    def _on_own_rows(self, number: int, function: HookFunction) -> HookFunction:
        """A hook function of one intervention, for its rows alone."""

        def hook(activation: Tensor, hook: Any) -> Tensor:
            rows = self._rows_under(number)
            if not len(rows):
                return activation
            return activation.index_copy(0, rows, function(activation[rows], hook).to(activation.dtype))

        return hook

    def _rows_under(self, number: int) -> Int[Tensor, " row"]:
        if number not in self._own_rows:
            rows = [row for row, used in enumerate(self._numbers) if used == number]
            self._own_rows[number] = torch.tensor(rows, dtype=torch.long, device=self._device)
        return self._own_rows[number]
