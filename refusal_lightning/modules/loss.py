"""Cross-entropy of given answers under an intervention."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from refusal_lightning.interventions import Intervention, intervene
from refusal_lightning.models import ChatModel
from refusal_lightning.modules.base import ModelModule


@dataclass
class LossBatch:
    """Left-padded texts; ``scored`` marks the tokens whose prediction counts."""

    texts: list[int]
    ids: Int[Tensor, "text token"]
    mask: Int[Tensor, "text token"]
    scored: Bool[Tensor, "text token"]


@dataclass
class LossSums:
    """Per text: the summed negative log-likelihood (nats, float64) of its scored tokens, and their count."""

    texts: list[int]
    loss: list[float]
    n_tokens: list[int]


def token_losses(
    logits: Float[Tensor, "text token vocab"], ids: Int[Tensor, "text token"]
) -> Float[Tensor, "text token-1"]:
    """Negative log-likelihood of each next token, in float64: entry t is about token t + 1."""
    log_probs = logits[:, :-1].double().log_softmax(-1)
    return -log_probs.gather(-1, ids[:, 1:].unsqueeze(-1)).squeeze(-1)


class LossModule(ModelModule):
    """``predict_step`` sums the loss of each text's scored tokens (the paper's appendix on CE loss)."""

    def __init__(self, model: ChatModel, intervention: Intervention) -> None:
        super().__init__(model)
        self.intervention = intervention

    def predict_step(self, batch: LossBatch, batch_idx: int = 0) -> LossSums:
        # Logits from the first token before any scored one to the end: the template's own are never made.
        first = int(batch.scored.any(0).nonzero()[0])
        keep = batch.ids.shape[1] - first + 1
        with intervene(self.engine, self.intervention):
            logits = self.engine(batch.ids, attention_mask=batch.mask, logits_to_keep=keep)
        losses = token_losses(logits.to(batch.ids.device), batch.ids[:, -keep:])
        scored = batch.scored[:, -keep + 1 :]
        sums = torch.where(scored, losses, 0.0).sum(-1)
        return LossSums(batch.texts, sums.tolist(), scored.sum(-1).tolist())
