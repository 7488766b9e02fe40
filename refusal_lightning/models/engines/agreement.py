"""Whether an engine gives what the bridge gives: at every hook point, and the logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from refusal_lightning.models.engines.protocol import Engine
from refusal_lightning.models.tokens import token_positions

TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-3}
"""Largest relative error (norms) of an activation against the bridge's; half precision: 0.1. Rounding stays well
below it, and a hook on the wrong side of a norm far above it."""


@torch.inference_mode()
def agrees(made: Engine, reference: Engine) -> bool:
    """Whether activations at every hook point of ``made``, and the logits, are those of the reference.

    On a padded batch of two rows.
    """
    weight = next(made.model.parameters())
    vocabulary = made.model.get_input_embeddings().weight.shape[0]
    ids = (torch.arange(24, device=weight.device).view(2, 12) * 97 + 5) % vocabulary
    mask = torch.ones_like(ids)
    mask[1, :5] = 0
    positions = token_positions(mask)
    kept = mask.bool()
    seen: list[dict[str, Tensor]] = []
    for engine in (reference, made):
        found: dict[str, Tensor] = {}
        pairs = [(name, _recorder(found, name)) for name in made.hook_names]
        with engine.hooks(fwd_hooks=pairs):
            out = engine.model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False)
        found["logits"] = out.logits
        seen.append({name: tensor[kept].float() for name, tensor in found.items()})
    tolerance = TOLERANCE.get(weight.dtype, 0.1)
    expected, got = seen
    return expected.keys() == got.keys() and all(
        bool((got[name] - expected[name]).norm() <= tolerance * expected[name].norm()) for name in expected
    )


def _recorder(found: dict[str, Tensor], name: str) -> Callable[[Tensor, Any], None]:
    def record(activation: Tensor, hook: Any) -> None:
        found[name] = activation.clone()

    return record
