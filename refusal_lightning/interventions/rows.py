"""The two interventions with a direction for each row of the batch, so that several candidates share a pass."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from refusal_lightning.interventions.intervention import Intervention, at_every_write


def row_ablation(directions: Float[Tensor, "row d_model"]) -> Intervention:
    """``ablation`` with the direction of each row: the first axis of every activation is the row."""
    directions = directions.detach().to(torch.float64)
    unit = directions / (directions.norm(dim=-1, keepdim=True) + 1e-8)

    def project(activation: Tensor, hook: Any) -> Tensor:
        wide = activation if activation.dtype in (torch.float32, torch.float64) else activation.float()
        r = unit.to(wide).unsqueeze(-1)
        return torch.baddbmm(wide, wide @ r, r.mT, alpha=-1).to(activation.dtype)

    return at_every_write("ablation", project)


def row_addition(vectors: Float[Tensor, "row d_model"], layer: int) -> Intervention:
    """``addition`` at one layer, coefficient 1, of the vector of each row."""
    added = vectors.detach().to(torch.float64).unsqueeze(1)

    def add(activation: Tensor, hook: Any) -> Tensor:
        return activation + added.to(activation)

    return Intervention("actadd", lambda n_layers: [(f"blocks.{layer}.hook_resid_pre", add)])
