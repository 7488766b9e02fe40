"""Answers to sets of prompts under interventions, continued from a journal."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refusal_lightning.config import TrainerConfig
from refusal_lightning.distributed.journal import Journal, Record
from refusal_lightning.distributed.predict import PredictLoop, run_journaled
from refusal_lightning.inputs.prompts import PromptSet
from refusal_lightning.interventions import Intervention, KeyedIntervention
from refusal_lightning.io.console import is_main_process
from refusal_lightning.io.hashing import digest
from refusal_lightning.io.serialization import write_json
from refusal_lightning.models import ChatModel

if TYPE_CHECKING:
    from refusal_lightning.inference.sampling import Sampling

log = logging.getLogger(__name__)

ANSWER_VERSION = 2
"""Raised when what is decoded changes: answers of another version are not used. 2: no shared beginning where padding
behind it changes attention."""
UNIT_ROWS = 384
"""Answers that are made and written together where the batch size is left to the memory: what a kill may cost."""
UNIT_BATCHES = 4
"""The same where the batch size is given, in batches: room for rows that end to make place for others."""


Unit = list[tuple[int, int]]
"""Rows that are answered together: the number of each one's task, and of its prompt there."""


@dataclass(frozen=True)
class Completion:
    """A response and its length in tokens."""

    response: str
    n_tokens: int


@dataclass(frozen=True)
class CompletionTask:
    """A set of prompts to answer under an intervention; ``key`` says what the answers depend on."""

    prompts: PromptSet
    intervention: Intervention
    key: str


@dataclass(frozen=True)
class CompletionSettings:
    """How prompts are answered."""

    max_new_tokens: int
    batch_size: int | None = None
    """Rows that are decoded at a time (None: as many as memory holds)."""
    sampling: Sampling | None = None
    """None: the likeliest tokens."""


def completion_task(
    chat: ChatModel, prompts: PromptSet, acting: KeyedIntervention, settings: CompletionSettings
) -> CompletionTask:
    """The task to answer these prompts under this intervention."""
    depends_on = [ANSWER_VERSION, chat.identity, acting.depends_on, chat.stop_ids, settings.max_new_tokens]
    if settings.sampling is not None:
        depends_on.append(asdict(settings.sampling))
    return CompletionTask(prompts, acting.intervention, digest([*depends_on, prompts.hashes]))


def generate_answers(
    chat: ChatModel,
    trainer: TrainerConfig,
    tasks: Sequence[CompletionTask],
    folder: Path,
    settings: CompletionSettings,
) -> tuple[list[list[Completion]], int]:
    """Each task's answers in the order of its prompts, and how many were generated now (the rest was in the journal).

    All tasks' rows are divided into units by length, so rows under several interventions share a batch. A unit that a
    kill left unfinished is run again whole, so a continued run computes exactly what an undisturbed one does.
    """
    journal = Journal(folder / "answers")
    answers = _read(journal)
    wanted = _tasks_of_request(tasks, answers, folder / "answers-plan.json", settings.batch_size)
    size = UNIT_ROWS if settings.batch_size is None else UNIT_BATCHES * settings.batch_size
    rows = {(task, i): len(ids) for task in wanted for i, ids in enumerate(tasks[task].prompts.token_ids)}
    units = split_into_units(rows, size)
    pending = [unit for unit in units if any((tasks[task].key, prompt) not in answers for task, prompt in unit)]
    if pending:
        _announce(chat, tasks, pending, settings)
        answers = _read(_predict(chat, trainer, tasks, journal, pending, settings))
    count = sum(len(unit) for unit in pending)
    return [[answers[task.key, i] for i in range(len(task.prompts))] for task in tasks], count


def _announce(
    chat: ChatModel, tasks: Sequence[CompletionTask], pending: Sequence[Unit], settings: CompletionSettings
) -> None:
    """Say how many answers will be generated, to what, and how many may not end by themselves."""
    at_work = [tasks[number] for number in sorted({task for unit in pending for task, _ in unit})]
    names = dict.fromkeys(task.prompts.name for task in at_work)
    acting = dict.fromkeys(task.intervention.name for task in at_work)
    count = sum(len(unit) for unit in pending)
    log.info(f"evaluate: {count} answers to {', '.join(names)} under {', '.join(acting)}")
    room = math.inf if chat.context is None else chat.context - settings.max_new_tokens
    full = sum(len(tasks[task].prompts.token_ids[prompt]) > room for unit in pending for task, prompt in unit)
    if full:
        log.info(f"evaluate: {full} of them end at the model's context of {chat.context} tokens, if they get so far")


def split_into_units(rows: dict[tuple[int, int], int], size: int) -> list[Unit]:
    """Units of at most ``size`` rows, alike in number, by prompt length (ties by prompt, then task).

    Depends on nothing but its arguments: neither on what is done already nor on the number of processes.
    """
    ordered = sorted(rows, key=lambda row: (rows[row], row[1], row[0]))
    n_units = -(-len(ordered) // size)
    bounds = [round(i * len(ordered) / n_units) for i in range(n_units + 1)] if n_units else [0]
    return [ordered[a:b] for a, b in pairwise(bounds)]


def _tasks_of_request(
    tasks: Sequence[CompletionTask], answers: dict[tuple[str, int], Completion], path: Path, batch_size: int | None
) -> list[int]:
    """Which tasks are computed together: those that lacked answers when the same request was first made.

    It is kept on disk, so that a run that goes on divides its rows as the killed one did, while an intervention added
    to a finished run does not have the others computed again.
    """
    request = digest([[task.key for task in tasks], batch_size])
    try:
        plan = json.loads(path.read_text(encoding="utf-8"))
        if plan["request"] == request:
            return list(plan["tasks"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    lacking = [n for n, t in enumerate(tasks) if any((t.key, i) not in answers for i in range(len(t.prompts)))]
    if lacking and is_main_process():
        write_json(path, {"request": request, "tasks": lacking})
    return lacking


def _read(records: Iterable[Record]) -> dict[tuple[str, int], Completion]:
    return {
        (record["task"], record["prompt"]): Completion(record["response"], record["n_tokens"]) for record in records
    }


def _predict(
    chat: ChatModel,
    trainer: TrainerConfig,
    tasks: Sequence[CompletionTask],
    journal: Journal,
    pending: list[Unit],
    settings: CompletionSettings,
) -> list[Record]:
    from refusal_lightning.modules.generation import GenerationBatch, GenerationModule, GenerationResult

    def batch(unit: Unit) -> GenerationBatch:
        return GenerationBatch(
            names=unit,
            token_ids=[tasks[task].prompts.token_ids[prompt] for task, prompt in unit],
            hashes=[tasks[task].prompts.hashes[prompt] for task, prompt in unit],
            interventions=[task for task, _ in unit],
        )

    def records(made: GenerationResult) -> Iterable[dict[str, Any]]:
        for (task, prompt), text, n_tokens in zip(made.names, made.texts, made.n_tokens, strict=True):
            yield {"task": tasks[task].key, "prompt": prompt, "response": text, "n_tokens": n_tokens}

    acting = [task.intervention for task in tasks]
    how = (settings.max_new_tokens, settings.batch_size, settings.sampling)
    module = GenerationModule(chat, acting, *how)

    def counts(made: GenerationResult) -> dict[str, int]:
        return {"prompts": len(made.names), "tokens": sum(made.n_tokens)}

    loop = PredictLoop(module, lambda: pending, make=batch, name="answers", counts=counts)
    return run_journaled(trainer, loop, journal, records)
