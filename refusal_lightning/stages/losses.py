"""Loss on given answers under one intervention, continued from a journal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from refusal_lightning.config import TrainerConfig
from refusal_lightning.interventions import Intervention
from refusal_lightning.models import ChatModel
from refusal_lightning.models.tokens import left_pad, length_batches
from refusal_lightning.stages.console import say
from refusal_lightning.writers.journal import Journal


def completion_losses(
    chat: ChatModel,
    trainer: TrainerConfig,
    intervention: Intervention,
    texts: Sequence[tuple[str, str]],
    journal_folder: Path,
    batch_size: int,
) -> tuple[list[tuple[float, int]], int]:
    """Per (instruction, response): summed loss (nats) over the response's tokens, and their count.

    A response of no tokens has (0, 0). Also returns how many texts were run now (the rest was in the journal).
    """
    journal = Journal(journal_folder)
    tokens = {i: scored_tokens(chat, *text) for i, text in enumerate(texts)}
    tokens = {i: (ids, first) for i, (ids, first) in tokens.items() if first < len(ids)}
    sums = _read(journal)
    order = list(tokens)
    batches = [[order[i] for i in batch] for batch in length_batches([len(tokens[i][0]) for i in order], batch_size)]
    pending = [batch for batch in batches if any(i not in sums for i in batch)]
    if pending:
        say(f"evaluate: loss of {sum(map(len, pending))} texts under {intervention.name}")
        _predict(chat, trainer, intervention, tokens, journal, pending)
        sums = _read(journal)
    return [sums.get(i, (0.0, 0)) for i in range(len(texts))], sum(len(batch) for batch in pending)


def scored_tokens(chat: ChatModel, instruction: str, response: str) -> tuple[list[int], int]:
    """Token ids of prompt and response, and the index of the first one whose prediction counts.

    The whole text is tokenised at once, as the authors do; should the response's start merge with the template's
    last token, the merged token is the first to count.
    """
    prompt = chat.encode(instruction)
    ids = chat.template.encode(chat.tokenizer, instruction, response)
    first = next((i for i, (a, b) in enumerate(zip(prompt, ids, strict=False)) if a != b), min(len(prompt), len(ids)))
    return ids, first


def _read(journal: Journal) -> dict[int, tuple[float, int]]:
    return {record["text"]: (record["loss"], record["n_tokens"]) for record in journal}


def _predict(
    chat: ChatModel,
    trainer: TrainerConfig,
    intervention: Intervention,
    tokens: dict[int, tuple[list[int], int]],
    journal: Journal,
    pending: list[list[int]],
) -> None:
    from refusal_lightning.data.work import WorkDataModule
    from refusal_lightning.modules.loss import LossBatch, LossModule, LossSums
    from refusal_lightning.stages.trainer import run_predict
    from refusal_lightning.writers.journal_writer import JournalWriter

    def expand(index: list[int]) -> Iterator[LossBatch]:
        ids, mask = left_pad([tokens[i][0] for i in index])
        width = ids.shape[1]
        counted = torch.tensor([len(tokens[i][0]) - tokens[i][1] for i in index])
        scored = torch.arange(width) >= width - counted[:, None]
        yield LossBatch(index, ids, mask, scored)

    def records(sums: LossSums) -> Iterable[dict[str, Any]]:
        for text, loss, n_tokens in zip(sums.texts, sums.loss, sums.n_tokens, strict=True):
            yield {"text": text, "loss": loss, "n_tokens": n_tokens}

    work = WorkDataModule(pending=lambda: pending, expand=expand)
    run_predict(trainer, LossModule(chat, intervention), work, [JournalWriter(journal, records)])
