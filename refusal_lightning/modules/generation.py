"""Answers under an intervention."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Int
from torch import Tensor

from refusal_lightning.interventions import Intervention, intervene
from refusal_lightning.models import ChatModel
from refusal_lightning.modules.base import ModelModule
from refusal_lightning.modules.decoding import decode_greedily


@dataclass
class GenerationBatch:
    """Left-padded prompts; ``prompts`` are their numbers in the set."""

    prompts: list[int]
    ids: Int[Tensor, "prompt token"]
    mask: Int[Tensor, "prompt token"]


@dataclass
class Answers:
    """The answers to a batch: texts, and their token counts before any cut of white space."""

    prompts: list[int]
    texts: list[str]
    n_tokens: list[int]


class GenerationModule(ModelModule):
    """``predict_step`` decodes greedily with the intervention's hooks on, at the prompt and at every step."""

    def __init__(self, model: ChatModel, intervention: Intervention, max_new_tokens: int) -> None:
        super().__init__(model)
        self.intervention = intervention
        self.max_new_tokens = max_new_tokens

    def predict_step(self, batch: GenerationBatch, batch_idx: int = 0) -> Answers:
        with intervene(self.bridge, self.intervention):
            answers = decode_greedily(
                self.bridge.original_model,
                batch.ids,
                batch.mask,
                set(self.model.stop_ids),
                self.max_new_tokens,
            )
        texts = [self.model.tokenizer.decode(a, skip_special_tokens=True).strip() for a in answers]
        return Answers(batch.prompts, texts, [len(a) for a in answers])
