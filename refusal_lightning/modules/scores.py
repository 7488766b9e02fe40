"""Intervention scores of candidates: bypass (ablated, harmful), induce (added, harmless), KL (ablated, harmless)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from refusal_lightning.directions.kl import kl_scores
from refusal_lightning.directions.refusal_score import refusal_scores
from refusal_lightning.directions.staging import ScoreKind
from refusal_lightning.interventions import ablation, addition, capture_residuals, intervene, skip_blocks
from refusal_lightning.models import ChatModel
from refusal_lightning.models.tokens import left_pad, length_batches
from refusal_lightning.modules.base import ModelModule


@dataclass
class ScoreTask:
    """One score of one candidate; ``position`` is negative."""

    kind: ScoreKind
    position: int
    layer: int


@dataclass
class ScoreResult:
    """A task's score for every prompt (float64, in the order the prompts were given)."""

    task: ScoreTask
    scores: list[float]


class ScoreModule(ModelModule):
    """``predict_step`` runs one candidate's intervention over all validation prompts of a kind.

    Adding a vector at layer l changes nothing below l, so induce scores start from the baseline's ``resid_pre`` of
    that layer; they are computed once, at the start, for the harmless prompts. Only last-position logits are made.
    """

    def __init__(
        self,
        model: ChatModel,
        directions: Float[Tensor, "position layer d_model"],
        harmful: Sequence[Sequence[int]],
        harmless: Sequence[Sequence[int]],
        harmless_logits: Float[Tensor, "prompt vocab"],
        kind: ScoreKind,
        batch_size: int,
    ) -> None:
        """``harmful`` and ``harmless`` are token ids of prompts; ``harmless_logits`` their baseline's, in order."""
        super().__init__(model)
        self.directions = directions
        self.kind = kind
        prompts = harmful if kind == "bypass" else harmless
        self._n_prompts = len(prompts)
        self._batches = [
            (index, *left_pad([prompts[i] for i in index]))
            for index in length_batches([len(p) for p in prompts], batch_size)
        ]
        self._harmless_logits = harmless_logits
        self._resid_pre: list[dict[int, Tensor]] = []

    def on_predict_start(self) -> None:
        self._batches = [(index, ids.to(self.device), mask.to(self.device)) for index, ids, mask in self._batches]
        if self.kind != "induce":
            return
        layers = range(self.model.n_layers)
        with torch.inference_mode():
            for _, ids, mask in self._batches:
                with capture_residuals(self.bridge, ["resid_pre"], layers, lambda x: x) as captured:
                    self._last_logits(ids, mask)
                self._resid_pre.append({layer: captured["resid_pre", layer] for layer in layers})

    def on_predict_end(self) -> None:
        self._resid_pre = []

    def predict_step(self, task: ScoreTask, batch_idx: int = 0) -> ScoreResult:
        direction = self.directions[task.position, task.layer].to(self.device)
        scores = torch.empty(self._n_prompts, dtype=torch.float64)
        for number, (index, ids, mask) in enumerate(self._batches):
            if task.kind == "induce":
                start = self._resid_pre[number][task.layer]
                with (
                    skip_blocks(self.bridge, task.layer, start),
                    intervene(self.bridge, addition(direction, task.layer, 1.0)),
                ):
                    logits = self._last_logits(ids, mask)
            else:
                with intervene(self.bridge, ablation(direction)):
                    logits = self._last_logits(ids, mask)
            if task.kind == "kl":
                batch_scores = kl_scores(self._harmless_logits[index].to(logits.device), logits)
            else:
                batch_scores = refusal_scores(logits, self.model.refusal_ids)
            scores[index] = batch_scores.cpu()
        return ScoreResult(task, scores.tolist())

    def _last_logits(self, ids: Tensor, mask: Tensor) -> Float[Tensor, "prompt vocab"]:
        return self.bridge(ids, attention_mask=mask, use_cache=False, logits_to_keep=1)[:, -1].float()
