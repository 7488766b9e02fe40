"""Answers to a set of prompts under one intervention, continued from a journal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refusal_lightning.config import TrainerConfig
from refusal_lightning.interventions import Intervention
from refusal_lightning.models import ChatModel
from refusal_lightning.models.tokens import left_pad, length_batches
from refusal_lightning.stages.console import say
from refusal_lightning.stages.prompts import PromptSet
from refusal_lightning.writers.journal import Journal


@dataclass(frozen=True)
class Answer:
    """A response and its length in tokens."""

    response: str
    n_tokens: int


def generate_answers(
    chat: ChatModel,
    trainer: TrainerConfig,
    intervention: Intervention,
    prompts: PromptSet,
    journal_folder: Path,
    *,
    max_new_tokens: int,
    batch_size: int,
) -> tuple[list[Answer], int]:
    """Answers in the order of the prompts, and how many were generated now (the rest was in the journal).

    Batches are fixed by the whole set, and a batch that a kill left unfinished is run again whole, so a continued
    run computes exactly what an undisturbed one does.
    """
    journal = Journal(journal_folder)
    answers = _read(journal)
    batches = length_batches([len(ids) for ids in prompts.token_ids], batch_size)
    pending = [batch for batch in batches if any(i not in answers for i in batch)]
    if pending:
        count = sum(len(batch) for batch in pending)
        say(f"evaluate: {count} answers to {prompts.name} under {intervention.name}")
        _predict(chat, trainer, intervention, prompts, journal, pending, max_new_tokens)
        answers = _read(journal)
    return [answers[i] for i in range(len(prompts))], sum(len(batch) for batch in pending)


def _read(journal: Journal) -> dict[int, Answer]:
    return {record["prompt"]: Answer(record["response"], record["n_tokens"]) for record in journal}


def _predict(
    chat: ChatModel,
    trainer: TrainerConfig,
    intervention: Intervention,
    prompts: PromptSet,
    journal: Journal,
    pending: list[list[int]],
    max_new_tokens: int,
) -> None:
    from refusal_lightning.data.work import WorkDataModule
    from refusal_lightning.modules.generation import Answers, GenerationBatch, GenerationModule
    from refusal_lightning.stages.trainer import run_predict
    from refusal_lightning.writers.journal_writer import JournalWriter

    def expand(index: list[int]) -> Iterator[GenerationBatch]:
        yield GenerationBatch(index, *left_pad([prompts.token_ids[i] for i in index]))

    def records(answers: Answers) -> Iterable[dict[str, Any]]:
        for prompt, text, n_tokens in zip(answers.prompts, answers.texts, answers.n_tokens, strict=True):
            yield {"prompt": prompt, "response": text, "n_tokens": n_tokens}

    work = WorkDataModule(pending=lambda: pending, expand=expand)
    module = GenerationModule(chat, intervention, max_new_tokens)
    run_predict(trainer, module, work, [JournalWriter(journal, records)])
