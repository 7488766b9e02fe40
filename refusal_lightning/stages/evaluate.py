"""evaluate: answers and loss under baseline, ablation and activation addition, judged and tabulated."""

from __future__ import annotations

import math
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
from refusal_lightning.data import draw_instructions, load_dataset
from refusal_lightning.errors import UserError
from refusal_lightning.files import write_text
from refusal_lightning.interventions import BASELINE, Intervention, ablation, addition
from refusal_lightning.judges import JudgeSettings, judges_by_name
from refusal_lightning.judges.answers import AnswerFile
from refusal_lightning.judges.rates import evaluate_completions
from refusal_lightning.models import ChatModel, load_chat_model
from refusal_lightning.modules.sampling import Sampling
from refusal_lightning.report.html import render_report
from refusal_lightning.report.summary import read_summary, terminal_table
from refusal_lightning.stages.answers import Answer, Task, generate_answers
from refusal_lightning.stages.console import is_main_process, say
from refusal_lightning.stages.files import digest, write_json
from refusal_lightning.stages.losses import completion_losses
from refusal_lightning.stages.prompts import PromptSet, prompt_set
from refusal_lightning.stages.runs import RunFolder

OWN_COMPLETIONS = "alpaca_custom_completions"
"""The authors' key for the loss on the model's own answers to harmless instructions."""


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
    judges = judges_by_name(evaluate.judges, judging)
    for judge in judges.values():
        judge.check()
    chat = load_chat_model(**asdict(model))
    run = RunFolder(runs.root, chat.alias)
    direction, position, layer = run.load_direction()
    selected_for = run.read_record().get("select", {}).get("model")
    if selected_for != chat.identity:
        raise UserError(f"the direction in {run.path} was selected for another model or template; run `select` first")
    run.prepare()
    sets = evaluation_sets(chat, data, evaluate)
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

    losses: dict[str, dict[str, Any]] = {}
    harmless = [item for item in sets if item.kind == "harmless"]
    if harmless and "baseline" in evaluate.interventions:
        texts = [
            (prompt, answer.response)
            for item in harmless
            for prompt, answer in zip(item.prompts.instructions, answers[item.prompts.name, "baseline"], strict=True)
        ]
        for name in evaluate.interventions:
            planned = plan(name, direction, layer, "harmful")
            key = digest([chat.identity, planned.depends_on, texts])
            sums, new = completion_losses(
                chat,
                trainer,
                planned.intervention,
                texts,
                run.journal(f"loss-{name}", key),
                evaluate.loss_batch_size,
            )
            computed += new
            n_tokens = sum(n for _, n in sums)
            mean = math.fsum(loss for loss, _ in sums) / n_tokens if n_tokens else math.nan
            losses[name] = {
                OWN_COMPLETIONS: {"ce_loss": mean, "perplexity": math.exp(mean), "n_tokens": n_tokens},
            }
    if not computed:
        say("evaluate: nothing to compute, all answers and losses are there")
    if not is_main_process():
        return

    verdicts = AnswerFile(run.path / ".journal" / "judges.jsonl")
    for item in sets:
        for name in evaluate.interventions:
            rows = [
                {"category": category, "prompt": instruction, "response": answer.response}
                for category, instruction, answer in zip(
                    item.categories, item.prompts.instructions, answers[item.prompts.name, name], strict=True
                )
            ]
            write_json(run.completions(item.prompts.name, name), rows)
            write_json(
                run.completion_evaluations(item.prompts.name, name), evaluate_completions(rows, judges, verdicts)
            )
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
    """The prompts to answer. Harmless splits are drawn from the same stream as the training prompts, after them."""
    rng = draw_instructions(data.root, data.n_train, data.n_val, data.seed).rng
    sets = []
    for kind, names in (("harmful", config.harmful), ("harmless", config.harmless)):
        for name in names:
            rows: Sequence[dict[str, Any]] = load_dataset(name, root=data.root)
            if kind == "harmless" and config.n_test is not None and config.n_test < len(rows):
                rows = rng.sample(list(rows), config.n_test)
            prompts = prompt_set(name, [row["instruction"] for row in rows], chat)
            sets.append(EvaluationSet(kind, prompts, [row["category"] for row in rows]))
    return sets


def plan(name: str, direction: torch.Tensor, layer: int, kind: str) -> Planned:
    """An intervention by name. Addition: -1 on harmful prompts (bypass), +1 on harmless ones (induce)."""
    values = direction.tolist()
    if name == "ablation":
        return Planned(ablation(direction), [name, values])
    if name == "actadd":
        coefficient = -1.0 if kind == "harmful" else 1.0
        return Planned(addition(direction, layer, coefficient), [name, values, layer, coefficient])
    return Planned(BASELINE, [name])
