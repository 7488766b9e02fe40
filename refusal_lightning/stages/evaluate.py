"""evaluate: answers and loss under baseline, ablation and activation addition, judged and tabulated."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from refusal_lightning.config import (
    DataConfig,
    EvaluateConfig,
    ModelConfig,
    RunsConfig,
    TrainerConfig,
)
from refusal_lightning.errors import UserError
from refusal_lightning.files import write_text
from refusal_lightning.interventions import BASELINE, Intervention, ablation, addition
from refusal_lightning.judges import JudgeSettings, judges_by_name
from refusal_lightning.judges.answers import AnswerFile
from refusal_lightning.judges.comparison import compare_evaluations
from refusal_lightning.judges.rates import evaluate_completions
from refusal_lightning.models import ChatModel
from refusal_lightning.modules.sampling import Sampling
from refusal_lightning.report.html import render_report
from refusal_lightning.report.summary import read_summary, terminal_table
from refusal_lightning.stages.answers import Answer, Task, generate_answers
from refusal_lightning.stages.company import agree, in_company, require_shared
from refusal_lightning.stages.console import is_main_process, say
from refusal_lightning.stages.files import digest, write_json
from refusal_lightning.stages.local_judges import ask_in_all_processes, local_loader
from refusal_lightning.stages.loss_texts import OWN_COMPLETIONS, own_completions, read_loss_sets
from refusal_lightning.stages.losses import loss_entry, text_losses
from refusal_lightning.stages.model import open_model
from refusal_lightning.stages.prompts import PromptSet, draw, far_longer, plain_name, prompt_set, rows_of
from refusal_lightning.stages.runs import RunFolder


@dataclass(frozen=True)
class EvaluationSet:
    """Prompts to answer, with the instructions' categories; ``kind`` is harmful or harmless."""

    kind: str
    prompts: PromptSet
    categories: list[str | None]


@dataclass(frozen=True)
class Planned:
    """An intervention as run on one kind of prompts, and a description that its results' keys are made of."""

    intervention: Intervention
    depends_on: list[Any]


@in_company
def evaluate(
    model: ModelConfig,
    data: DataConfig,
    trainer: TrainerConfig,
    runs: RunsConfig,
    evaluate: EvaluateConfig,
    judging: JudgeSettings,
) -> None:
    """Generate, judge and measure loss with the run's selected direction; write the tables and the report.

    Answers and losses that an earlier or killed run computed are kept; no weights are loaded when all are there.
    """
    started = time.perf_counter()
    chat = open_model(model, trainer)
    judges = judges_by_name(evaluate.judges, judging, local_loader(judging, trainer))
    if is_main_process():  # which alone asks over the network
        for judge in judges.values():
            judge.check()
    run = RunFolder(runs.root, chat.alias)
    direction, position, layer = run.load_direction()
    run.require_direction_of(chat.identity)
    run.prepare()
    require_shared(run.path, "runs.root")
    sets = evaluation_sets(chat, data, evaluate)
    loss_sets = read_loss_sets(chat, data, evaluate)
    agree(
        {
            "model": digest(chat.identity),
            "direction": digest(direction.tolist()),
            "prompts": digest([item.prompts.hashes for item in sets]),
            "texts": digest(loss_sets),
        }
    )
    say(_counts(sets, evaluate.n_test))
    for line in far_longer(item.prompts for item in sets):
        say(f"warning: {line}")
    sampling = Sampling(**asdict(evaluate.sampling)) if evaluate.sampling else None
    tasks: dict[tuple[str, str], Task] = {}
    for item in sets:
        for name in evaluate.interventions:
            planned = plan(name, direction, layer, item.kind)
            depends_on = [chat.identity, planned.depends_on, chat.stop_ids, evaluate.max_new_tokens]
            if sampling is not None:
                depends_on.append(asdict(sampling))
            key = digest([*depends_on, item.prompts.hashes])
            tasks[item.prompts.name, name] = Task(item.prompts, planned.intervention, key)
    found, computed = generate_answers(
        chat,
        trainer,
        list(tasks.values()),
        run.path / ".journal",
        max_new_tokens=evaluate.max_new_tokens,
        batch_size=evaluate.batch_size,
        sampling=sampling,
    )
    answers: dict[tuple[str, str], list[Answer]] = dict(zip(tasks, found, strict=True))

    own = [
        (instruction, answer.response)
        for item in sets
        if item.kind == "harmless" and OWN_COMPLETIONS in evaluate.losses and "baseline" in evaluate.interventions
        for instruction, answer in zip(item.prompts.instructions, answers[item.prompts.name, "baseline"], strict=True)
    ]
    if own:
        loss_sets[OWN_COMPLETIONS] = own_completions(chat, own, evaluate.loss_mask)
    losses: dict[str, dict[str, Any]] = {}
    for dataset, texts in loss_sets.items():
        for name in evaluate.interventions:
            planned = plan(name, direction, layer, "harmful")
            key = digest([chat.identity, planned.depends_on, texts])
            sums, new = text_losses(
                chat,
                trainer,
                planned.intervention,
                texts,
                run.journal(f"loss-{dataset}-{name}", key),
                evaluate.loss_batch_size,
            )
            computed += new
            losses.setdefault(name, {})[dataset] = loss_entry(sums, evaluate.loss_mask)
    if not computed:
        say("evaluate: nothing to compute, all answers and losses are there")
    verdicts = AnswerFile(run.path / ".journal" / "judges.jsonl")
    pairs = [
        (instruction, answer.response)
        for item in sets
        for name in evaluate.interventions
        for instruction, answer in zip(item.prompts.instructions, answers[item.prompts.name, name], strict=True)
    ]
    ask_in_all_processes(judges.values(), pairs, verdicts, judging, trainer, run.path / ".journal", before=chat.release)
    if not is_main_process():
        return

    for item in sets:
        evaluations: dict[str, dict[str, Any]] = {}
        for name in evaluate.interventions:
            rows = [
                {"category": category, "prompt": instruction, "response": answer.response}
                for category, instruction, answer in zip(
                    item.categories, item.prompts.instructions, answers[item.prompts.name, name], strict=True
                )
            ]
            write_json(run.completions(item.prompts.name, name), rows)
            evaluations[name] = evaluate_completions(rows, judges, verdicts)
            write_json(run.completion_evaluations(item.prompts.name, name), evaluations[name])
        compared = compare_evaluations(evaluations, list(judges))
        write_json(run.comparisons(item.prompts.name), {"comparisons": compared})
    for intervention, entry in losses.items():
        write_json(run.loss_eval(intervention), entry)
    run.record_stage(
        "evaluate",
        {
            "config": {"model": asdict(model), "data": asdict(data), "evaluate": asdict(evaluate)},
            "model": chat.identity,
            "position": position,
            "layer": layer,
            "harmful": [item.prompts.name for item in sets if item.kind == "harmful"],
            "harmless": [item.prompts.name for item in sets if item.kind == "harmless"],
            "prompts": {
                item.prompts.name: {"count": len(item.prompts), "hash": digest(item.prompts.hashes)} for item in sets
            },
            "interventions": list(evaluate.interventions),
            "judges": list(judges),
            "losses": bool(losses),
        },
        seconds=time.perf_counter() - started,
    )
    summary = read_summary(run.path)
    write_text(run.report, render_report(summary, run.path))
    say()
    say(terminal_table(summary, run.path))
    say(f"report:   {run.report}")


def evaluation_sets(chat: ChatModel, data: DataConfig, config: EvaluateConfig) -> list[EvaluationSet]:
    """The prompts to answer. Harmless splits are drawn from the same stream as the training prompts, after them.

    Where nothing is drawn, the training prompts are not needed.
    """
    rng: random.Random | None = None
    sets: list[EvaluationSet] = []
    first, second = (f"{label}_test" for label in data.labels)
    chosen = (
        ("harmful", [first] if config.harmful is None else config.harmful),
        ("harmless", [second] if config.harmless is None else config.harmless),
    )
    for kind, names in chosen:
        for name in names:
            rows: Sequence[dict[str, Any]] = rows_of(name, data)
            whole = [row["instruction"] for row in rows]
            if kind == "harmless" and config.n_test is not None and config.n_test < len(rows):
                rng = rng or draw(data).rng
                rows = rng.sample(list(rows), config.n_test)
            file_name = plain_name(name)
            if any(item.prompts.name == file_name for item in sets):
                raise UserError(
                    f"evaluate: two sets would both be written as {file_name}; give one another name in data.sets"
                )
            prompts = prompt_set(file_name, [row["instruction"] for row in rows], chat, whole)
            sets.append(EvaluationSet(kind, prompts, [row["category"] for row in rows]))
    return sets


def _counts(sets: Sequence[EvaluationSet], n_test: int | None) -> str:
    """How many prompts of each set are answered, and where that is fewer than asked for."""
    few = [item for item in sets if item.kind == "harmless" and n_test is not None and len(item.prompts) < n_test]
    counts = ", ".join(
        f"{len(item.prompts)} of {item.prompts.name}" + (" (all there are)" if item in few else "") for item in sets
    )
    return f"evaluate: answers to {counts}" + (f"; evaluate.n_test is {n_test}" if few else "")


def plan(name: str, direction: torch.Tensor, layer: int, kind: str) -> Planned:
    """An intervention by name. Addition: -1 on harmful prompts (bypass), +1 on harmless ones (induce)."""
    values = direction.tolist()
    if name == "ablation":
        return Planned(ablation(direction), [name, values])
    if name == "actadd":
        coefficient = -1.0 if kind == "harmful" else 1.0
        return Planned(addition(direction, layer, coefficient), [name, values, layer, coefficient])
    return Planned(BASELINE, [name])
