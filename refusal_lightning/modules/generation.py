"""Answers under interventions."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from refusal_lightning.inference.batch_size import rows_that_fit
from refusal_lightning.inference.continuous_batching import Row, decode_rows
from refusal_lightning.inference.decoding import StoppingRule, decode_batch
from refusal_lightning.inference.sampling import Sampling
from refusal_lightning.inference.shortcuts import keeps_columns, shares_exactly, steps_exactly
from refusal_lightning.interventions import Intervention, intervene
from refusal_lightning.models import ChatModel
from refusal_lightning.models.engines.protocol import Engine
from refusal_lightning.models.tokens import left_pad
from refusal_lightning.modules.base import ModelModule

log = logging.getLogger(__name__)

APART = 16
"""Rows at a time for models whose memory is not estimated."""


@dataclass
class GenerationBatch:
    """Rows to answer together: each a prompt's token ids, its hash, and the number of its intervention.

    ``names`` say which rows they are, and are not looked at.
    """

    names: list[Any]
    token_ids: list[list[int]]
    hashes: list[str]
    interventions: list[int]


@dataclass
class GenerationResult:
    """The answers to a batch: texts, and their token counts before any cut of white space."""

    names: list[Any]
    texts: list[str]
    n_tokens: list[int]


class GenerationModule(ModelModule):
    """``predict_step`` answers a batch of rows, each under its own intervention, at the prompt and at every step.

    ``n_slots`` rows are decoded at a time (None: as many as memory holds). Where GPU memory runs out nevertheless, half
    as many are, from then on.
    """

    def __init__(
        self,
        model: ChatModel,
        interventions: Sequence[Intervention],
        max_new_tokens: int,
        n_slots: int | None,
        sampling: Sampling | None = None,
    ) -> None:
        super().__init__(model)
        self.interventions, self.max_new_tokens = list(interventions), max_new_tokens
        self.n_slots, self.sampling = n_slots, sampling

    def setup(self, stage: str) -> None:
        super().setup(stage)
        self.model.fast_engine(self.device)

    def predict_step(self, batch: GenerationBatch, batch_idx: int = 0) -> GenerationResult:
        draws: list[Tensor | None] = [None] * len(batch.hashes)
        if self.sampling is not None:
            draws = [
                self.sampling.draws(name, self.interventions[number].name, self.max_new_tokens)
                for name, number in zip(batch.hashes, batch.interventions, strict=True)
            ]
        rows = [Row(*each) for each in zip(batch.token_ids, batch.interventions, draws, strict=True)]
        answers = self._decode(self.model.fast_engine(self.device), rows)
        texts = [self.model.tokenizer.decode(a, skip_special_tokens=True).strip() for a in answers]
        return GenerationResult(batch.names, texts, [len(a) for a in answers])

    def _decode(self, engine: Engine, rows: list[Row]) -> list[list[int]]:
        stopping = StoppingRule(set(self.model.stop_ids), self.max_new_tokens, self.model.context)
        prompts, device = [row.token_ids for row in rows], engine.input_device
        cached = steps_exactly(engine.model, prompts, device)
        apart = not cached or decodes_apart(self.model, engine)
        longest = max(len(row.token_ids) for row in rows) + self.max_new_tokens
        n_rows = self.n_slots or (APART if apart else rows_that_fit(engine.model, longest, self.trainer.num_devices))
        while True:
            try:
                if apart:
                    return self._decode_apart(engine, rows, stopping, n_rows, cached)
                return decode_rows(
                    engine,
                    rows,
                    self.interventions,
                    stopping,
                    n_rows,
                    self.sampling,
                    shares_exactly(engine.model, prompts, device),
                )
            except torch.OutOfMemoryError:
                if n_rows == 1:
                    raise
            self.n_slots = n_rows = n_rows // 2
            torch.cuda.empty_cache()
            log.info(f"evaluate: out of GPU memory, going on with {n_rows} rows at a time (evaluate.batch_size)")

    def _decode_apart(
        self, engine: Engine, rows: list[Row], stopping: StoppingRule, size: int, cached: bool
    ) -> list[list[int]]:
        """Each intervention's rows by themselves, no newcomers, with the model's own cache, if any."""
        answers: list[list[int]] = [[] for _ in rows]
        device = engine.input_device
        for number, intervention in enumerate(self.interventions):
            index = [i for i, row in enumerate(rows) if row.intervention == number]
            for some in (index[i : i + size] for i in range(0, len(index), size)):

                def choose(
                    logits: Float[Tensor, "row vocab"], alive: list[int], step: int, some: list[int] = some
                ) -> Int[Tensor, " row"]:
                    if self.sampling is None:
                        return logits.argmax(-1)
                    return self.sampling.choose(logits, torch.stack([rows[some[i]].draw(step) for i in alive]))

                ids, mask = (t.to(device) for t in left_pad([rows[i].token_ids for i in some]))
                with intervene(engine, intervention):
                    made = decode_batch(engine.model, ids, mask, stopping, choose, cached)
                for i, answer in zip(some, made, strict=True):
                    answers[i] = answer
        return answers


def decodes_apart(chat: ChatModel, engine: Engine) -> bool:
    """Whether each intervention's rows are decoded by themselves, with the model's own cache.

    Slots are memory of one device; a spread model's layers are on several.
    """
    return chat.spread or not can_refill(engine.model.config)


def can_refill(config: Any) -> bool:
    """Whether rows may come and go: where every layer keeps keys and values, and attends to all or to a window.

    Chunked attention counts columns from the batch's beginning.
    """
    kinds = set(getattr(config.get_text_config(), "layer_types", None) or ()) - {"full_attention", "sliding_attention"}
    return keeps_columns(config) and not kinds
