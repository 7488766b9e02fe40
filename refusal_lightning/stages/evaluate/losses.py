"""Loss on given texts under one intervention, continued from a journal."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from refusal_lightning.config import LossMask, TrainerConfig
from refusal_lightning.distributed.journal import Journal, Record
from refusal_lightning.distributed.predict import PredictLoop, run_journaled
from refusal_lightning.inputs.loss_texts import ScoredText, loss_batches
from refusal_lightning.interventions import Intervention, KeyedIntervention
from refusal_lightning.io.hashing import digest
from refusal_lightning.models import ChatModel
from refusal_lightning.models.tokens import left_pad

log = logging.getLogger(__name__)

LOSS_VERSION = 1
"""Raised when the definition of a text's loss changes: losses of another version are not used."""


def loss_key(chat: ChatModel, acting: KeyedIntervention, texts: Sequence[ScoredText]) -> str:
    """What the losses on these texts under this intervention depend on."""
    return digest([LOSS_VERSION, chat.identity, acting.depends_on, texts])


def text_losses(
    chat: ChatModel,
    trainer: TrainerConfig,
    intervention: Intervention,
    texts: Sequence[ScoredText],
    journal_folder: Path,
    batch_size: int,
) -> tuple[list[tuple[float, int]], int]:
    """Per text: summed loss (nats) over its scored tokens, and their count; (0, 0) where none is scored.

    Also returns how many texts were run now (the rest was in the journal).
    """
    journal = Journal(journal_folder)
    sums = _read(journal)
    batches = loss_batches([(len(text.ids), text.first) for text in texts], batch_size)
    pending = [batch for batch in batches if any(i not in sums for i in batch)]
    if pending:
        log.info(f"evaluate: loss of {sum(map(len, pending))} texts under {intervention.name}")
        sums = _read(_predict(chat, trainer, intervention, texts, journal, pending))
    scored = {i for batch in batches for i in batch}
    return [sums[i] if i in scored else (0.0, 0) for i in range(len(texts))], sum(len(batch) for batch in pending)


def loss_entry(sums: Sequence[tuple[float, int]], mask: LossMask) -> dict[str, Any]:
    """Mean loss per token (nats), perplexity, count of tokens, and by which mask answers' tokens are counted.

    The sum is exact, so its order does not matter.
    """
    n_tokens = sum(n for _, n in sums)
    mean = math.fsum(loss for loss, _ in sums) / n_tokens if n_tokens else math.nan
    return {"ce_loss": mean, "perplexity": math.exp(min(mean, 700.0)), "n_tokens": n_tokens, "loss_mask": mask}


def _read(records: Iterable[Record]) -> dict[int, tuple[float, int]]:
    return {record["text"]: (record["loss"], record["n_tokens"]) for record in records}


def _predict(
    chat: ChatModel,
    trainer: TrainerConfig,
    intervention: Intervention,
    texts: Sequence[ScoredText],
    journal: Journal,
    pending: list[list[int]],
) -> list[Record]:
    from refusal_lightning.modules.loss import LossBatch, LossModule, LossSums

    def batch(index: list[int]) -> LossBatch:
        ids, mask = left_pad([texts[i].ids for i in index])
        width = ids.shape[1]
        counted = torch.tensor([len(texts[i].ids) - texts[i].first for i in index])
        scored = torch.arange(width) >= width - counted[:, None]
        return LossBatch(index, ids, mask, scored)

    def records(sums: LossSums) -> Iterable[dict[str, Any]]:
        for text, loss, n_tokens in zip(sums.texts, sums.loss, sums.n_tokens, strict=True):
            yield {"text": text, "loss": loss, "n_tokens": n_tokens}

    def counts(sums: LossSums) -> dict[str, int]:
        return {"texts": len(sums.texts), "tokens": sum(sums.n_tokens)}

    module = LossModule(chat, intervention)
    loop = PredictLoop(module, lambda: pending, make=batch, name="losses", counts=counts)
    return run_journaled(trainer, loop, journal, records)
