"""Weights that cannot write along a direction: what ablation is compared with."""

from __future__ import annotations

from typing import Any

import torch


def orthogonalise(model: Any, r: torch.Tensor) -> None:
    """W - r r^T W for everything that writes into the residual stream, in float64."""
    written = ("o_proj", "down_proj", "attention.dense", "mlp.dense_4h_to_h")
    with torch.no_grad():
        embedding = model.get_input_embeddings().weight
        unembedding = model.get_output_embeddings()
        if unembedding is not None and unembedding.weight is embedding:
            unembedding.weight = torch.nn.Parameter(embedding.clone())
        wide = embedding.double()
        embedding.copy_(wide - (wide @ r)[:, None] * r)
        for name, parameter in model.named_parameters():
            if not any(part in name for part in written):
                continue
            wide = parameter.double()
            if parameter.ndim == 1:  # a bias
                parameter.copy_(wide - (wide @ r) * r)
            else:  # [out, in], or [expert, out, in]
                parameter.copy_(wide - r[:, None] * torch.einsum("d,...dk->...k", r, wide).unsqueeze(-2))
