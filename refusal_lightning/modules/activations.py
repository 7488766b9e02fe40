"""Reading activations of prompts, and the baseline's next-token logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from refusal_lightning.interventions import record_activations
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

    Hook points are ``[prompt, layer, position, d_model]`` in the model's dtype (``[token, layer, d_model]``, one
    prompt's tokens after the other's, where all tokens are read), ``next_token_logits`` is ``[prompt, vocab]``.
    """

    shard: int
    rows: list[int]
    arrays: dict[str, Float[Tensor, "row ..."]]


class ActivationModule(ModelModule):
    """``predict_step`` returns hook points of blocks at the last ``positions`` tokens of each prompt, or at all."""

    def __init__(
        self, model: ChatModel, hook_points: Sequence[str], layers: Sequence[int], positions: int | Literal["all"]
    ) -> None:
        super().__init__(model)
        self.hook_points, self.layers, self.positions = list(hook_points), list(layers), positions

    def predict_step(self, batch: PromptBatch, batch_idx: int = 0) -> ActivationBatch:
        def take(activation: Float[Tensor, "prompt token d_model"]) -> Tensor:
            if self.positions == "all":
                return activation[real.to(activation.device)]
            return activation[:, -self.positions :]

        real = batch.mask.bool()
        with record_activations(self.engine, self.hook_points, self.layers, take) as captured:
            logits = self.engine(batch.ids, attention_mask=batch.mask, logits_to_keep=1)
        arrays = {
            point: torch.stack([captured[point, layer].to(real.device) for layer in self.layers], dim=1)
            for point in self.hook_points
        }
        arrays["next_token_logits"] = logits[:, -1].float()
        return ActivationBatch(batch.shard, batch.rows, arrays)
