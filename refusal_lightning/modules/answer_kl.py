"""KL divergence over the baseline's own answer: what one token may hide, the first few show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from refusal_lightning.directions.metrics.kl import exact_kl_scores
from refusal_lightning.directions.selection.candidates import Place
from refusal_lightning.inference.decoding import StoppingRule, decode_greedily
from refusal_lightning.interventions import BASELINE, Intervention, ablation, intervene
from refusal_lightning.models import ChatModel
from refusal_lightning.models.tokens import left_pad, length_batches
from refusal_lightning.modules.base import ModelModule


@dataclass
class AnswerKLResult:
    """A candidate's KL (nats) for every prompt: the mean over the tokens of the baseline's answer."""

    place: Place
    kl: list[float]


class AnswerKLModule(ModelModule):
    """``predict_step`` ablates one candidate and reads the answers that the baseline gave, token by token.

    The baseline's greedy answers, at most ``n_tokens`` long, and its logits at each of their tokens are made once, at
    the start. An answer of no tokens counts as one: the first prediction, which is to stop.
    """

    def __init__(
        self,
        model: ChatModel,
        directions: Float[Tensor, "position layer d_model"],
        prompts: Sequence[Sequence[int]],
        n_tokens: int,
        batch_size: int,
    ) -> None:
        super().__init__(model)
        self.directions, self._prompts, self._n_tokens, self._batch_size = directions, prompts, n_tokens, batch_size
        self._batches: list[tuple[list[int], Tensor, Tensor, list[int]]] = []
        self._baseline: list[Tensor] = []

    def on_predict_start(self) -> None:
        with torch.inference_mode():
            for index in length_batches([len(p) for p in self._prompts], self._batch_size):
                prompts = [list(self._prompts[i]) for i in index]
                ids, mask = (t.to(self.input_device) for t in left_pad(prompts))
                stopping = StoppingRule(set(self.model.stop_ids), self._n_tokens, self.model.context)
                answers = decode_greedily(self.engine.model, ids, mask, stopping)
                # The last token of an answer is predicted, and predicts nothing that is looked at.
                read = [prompt + answer[:-1] for prompt, answer in zip(prompts, answers, strict=True)]
                ids, mask = (t.to(self.input_device) for t in left_pad(read))
                self._batches.append((index, ids, mask, [max(1, len(answer)) for answer in answers]))
                self._baseline.append(self._logits(len(self._batches) - 1, BASELINE))

    def _logits(self, number: int, intervention: Intervention) -> Float[Tensor, "prompt token vocab"]:
        """Logits at the last tokens of a batch, as many as its longest answer has."""
        _, ids, mask, lengths = self._batches[number]
        with intervene(self.engine, intervention):
            logits: Tensor = self.engine(ids, attention_mask=mask, logits_to_keep=max(lengths))
        return logits.float()

    def predict_step(self, place: Place, batch_idx: int = 0) -> AnswerKLResult:
        kl = [0.0] * len(self._prompts)
        changed = ablation(self.directions[tuple(place)].to(self.input_device))
        for number, (index, _, _, lengths) in enumerate(self._batches):
            logits = self._logits(number, changed)
            for row, (prompt, length) in enumerate(zip(index, lengths, strict=True)):
                scores = exact_kl_scores(self._baseline[number][row, -length:], logits[row, -length:])
                kl[prompt] = float(scores.mean())
        return AnswerKLResult((int(place[0]), int(place[1])), kl)
