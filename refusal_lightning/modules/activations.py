"""Reading activations at the end-of-instruction positions, and the baseline's next-token logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from refusal_lightning.interventions import capture_residuals
from refusal_lightning.models import ChatModel
from refusal_lightning.modules.base import ModelModule


@dataclass
class PromptBatch:
    """Left-padded prompts of one shard; ``rows`` are their places within it."""

    shard: int
    rows: list[int]
    ids: Int[Tensor, "prompt token"]
    mask: Int[Tensor, "prompt token"]


@dataclass
class ActivationBatch:
    """What a forward pass leaves for the store, by array name.

    Hook points are ``[prompt, layer, position, d_model]`` in the model's dtype, ``next_token_logits`` is
    ``[prompt, vocab]`` in float32 or better.
    """

    shard: int
    rows: list[int]
    arrays: dict[str, Float[Tensor, "prompt ..."]]


class ActivationModule(ModelModule):
    """``predict_step`` returns the hook points of all layers at the last ``n_positions`` tokens of each prompt."""

    def __init__(self, model: ChatModel, hook_points: Sequence[str]) -> None:
        super().__init__(model)
        self.hook_points = list(hook_points)

    def predict_step(self, batch: PromptBatch, batch_idx: int = 0) -> ActivationBatch:
        n = self.model.n_positions
        layers = range(self.model.n_layers)
        with capture_residuals(self.bridge, self.hook_points, layers, lambda x: x[:, -n:]) as captured:
            logits = self.bridge(batch.ids, attention_mask=batch.mask, use_cache=False, logits_to_keep=1)
        arrays = {point: torch.stack([captured[point, layer] for layer in layers], dim=1) for point in self.hook_points}
        arrays["next_token_logits"] = logits[:, -1].float()
        return ActivationBatch(batch.shard, batch.rows, arrays)
