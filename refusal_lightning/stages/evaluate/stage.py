"""evaluate: answers and loss under baseline, ablation and activation addition, judged and tabulated."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from refusal_lightning.config import (
    DataConfig,
    EvaluateConfig,
    ModelConfig,
    RunsConfig,
    TrainerConfig,
)
from refusal_lightning.data.datasets import HARMTYPES
from refusal_lightning.distributed.launch import distributed_stage
from refusal_lightning.distributed.process_group import require_same_on_all_ranks, require_shared_folder
from refusal_lightning.doctor.hook_proof import HookProof
from refusal_lightning.inference.sampling import Sampling
from refusal_lightning.inputs.evaluation_sets import EvaluationSet, evaluation_sets
from refusal_lightning.inputs.loss_texts import OWN_COMPLETIONS, ScoredText, own_completions, read_loss_sets
from refusal_lightning.inputs.model import open_model
from refusal_lightning.inputs.prompts import (
    far_longer,
)
from refusal_lightning.interventions import BASELINE
from refusal_lightning.interventions.registry import INTERVENTIONS, build_intervention
from refusal_lightning.io.console import is_main_process
from refusal_lightning.io.files import write_text
from refusal_lightning.io.serialization import digest, write_json
from refusal_lightning.judges.comparison import compare_evaluations
from refusal_lightning.judges.config import JudgeSettings
from refusal_lightning.judges.rates import evaluate_completions
from refusal_lightning.judges.registry import judges_by_name, judges_made_from
from refusal_lightning.judges.response_cache import ResponseCache
from refusal_lightning.judges.verdict import Judge
from refusal_lightning.models import ChatModel
from refusal_lightning.report.html import render_report
from refusal_lightning.report.summary import read_summary, terminal_table
from refusal_lightning.runs.folder import RunFolder, direction_digest
from refusal_lightning.runs.made_from import MadeFrom, in_short, make_room, working
from refusal_lightning.stages.evaluate.completions import ANSWER_VERSION, Completion, CompletionTask, generate_answers
from refusal_lightning.stages.evaluate.judging import ask_in_all_processes, local_loader
from refusal_lightning.stages.evaluate.losses import LOSS_VERSION, loss_entry, text_losses

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Inputs:
    """What is answered and measured, with which model and direction."""

    chat: ChatModel
    run: RunFolder
    direction: torch.Tensor
    position: int
    layer: int
    sets: list[EvaluationSet]
    proof: HookProof
    config: EvaluateConfig
    trainer: TrainerConfig

    @property
    def bound_to(self) -> str:
        """The direction's digest."""
        return direction_digest(self.direction, self.position, self.layer)


@dataclass(frozen=True)
class Measured:
    """Answers by set and intervention, with what they depend on, and losses by intervention and texts."""

    keys: dict[tuple[str, str], str]
    answers: dict[tuple[str, str], list[Completion]]
    losses: dict[str, dict[str, Any]]
    texts: dict[str, str]
    """A digest of each set of texts whose loss was measured."""


@distributed_stage
def evaluate(
    model: ModelConfig,
    data: DataConfig,
    trainer: TrainerConfig,
    runs: RunsConfig,
    evaluate: EvaluateConfig,
    judging: JudgeSettings,
) -> None:
    """Generate, judge and measure loss with the run's selected direction; write the tables and the report.

    Answers and losses that an earlier or killed run computed are kept; no weights are loaded when all are there. Files
    that were made from another direction or setting are moved aside.
    """
    started = time.perf_counter()
    INTERVENTIONS.require(evaluate.interventions, "evaluate.interventions")
    chat = open_model(model, trainer)
    judges = judges_by_name(evaluate.judges, judging, local_loader(judging, trainer))
    if is_main_process():  # which alone asks over the network
        for judge in judges.values():
            judge.check()
    run = RunFolder(runs.root, chat.alias)
    direction, position, layer = run.load_direction()
    run.prepare()
    require_shared_folder(run.path, "runs.root")
    sets = evaluation_sets(chat, data, evaluate)
    loss_sets = read_loss_sets(chat, data, evaluate)
    require_same_on_all_ranks(
        {
            "model": digest(chat.identity),
            "direction": digest(direction.tolist()),
            "prompts": digest([item.prompts.hashes for item in sets]),
            "texts": digest(loss_sets),
        }
    )
    log.info(_counts(sets, evaluate.n_test))
    for line in far_longer(item.prompts for item in sets):
        log.warning(line)
    of_kind = ([ids for item in sets if item.kind == kind for ids in item.prompts.token_ids] for kind in HARMTYPES)
    proof = HookProof("evaluate", chat, run.path / ".journal", ["answers"], *of_kind)
    inputs = Inputs(chat, run, direction, position, layer, sets, proof, evaluate, trainer)
    with working(run, "evaluate", chat.identity, model.name, direction=inputs.bound_to):
        measured = _measure(inputs, loss_sets)
        verdicts = ResponseCache(run.path / ".journal" / "judges.jsonl")
        pairs = [
            (instruction, answer.response)
            for item in sets
            for name in evaluate.interventions
            for instruction, answer in zip(
                item.prompts.instructions, measured.answers[item.prompts.name, name], strict=True
            )
        ]
        folder = run.path / ".journal"
        ask_in_all_processes(judges.values(), pairs, verdicts, judging, trainer, folder, before=chat.release)
        if is_main_process():
            asked = _files(inputs, measured, judges_made_from(evaluate.judges, judging))
            _write(inputs, measured, asked, judges, verdicts)
            config = {"model": asdict(model), "data": asdict(data), "evaluate": asdict(evaluate)}
            run.record_stage("evaluate", _entry(inputs, measured, config, list(judges)), time.perf_counter() - started)
            _tell(run)


def _measure(inputs: Inputs, loss_sets: dict[str, list[ScoredText]]) -> Measured:
    """All answers and losses: those that the journals lack are computed, by all processes."""
    chat, run, config = inputs.chat, inputs.run, inputs.config
    sampling = Sampling(**asdict(config.sampling)) if config.sampling else None
    tasks: dict[tuple[str, str], CompletionTask] = {}
    for item in inputs.sets:
        for name in config.interventions:
            planned = build_intervention(name, inputs.direction, inputs.layer, item.kind)
            depends_on = [ANSWER_VERSION, chat.identity, planned.depends_on, chat.stop_ids, config.max_new_tokens]
            if sampling is not None:
                depends_on.append(asdict(sampling))
            key = digest([*depends_on, item.prompts.hashes])
            tasks[item.prompts.name, name] = CompletionTask(item.prompts, planned.intervention, key)
    found, computed = generate_answers(
        chat,
        inputs.trainer,
        list(tasks.values()),
        run.path / ".journal",
        max_new_tokens=config.max_new_tokens,
        batch_size=config.batch_size,
        sampling=sampling,
    )
    answers: dict[tuple[str, str], list[Completion]] = dict(zip(tasks, found, strict=True))
    own = [
        (instruction, answer.response)
        for item in inputs.sets
        if item.kind == "harmless" and OWN_COMPLETIONS in config.losses and BASELINE.name in config.interventions
        for instruction, answer in zip(
            item.prompts.instructions, answers[item.prompts.name, BASELINE.name], strict=True
        )
    ]
    if own:
        loss_sets[OWN_COMPLETIONS] = own_completions(chat, own, config.loss_mask)
    losses: dict[str, dict[str, Any]] = {}
    for dataset, texts in loss_sets.items():
        for name in config.interventions:
            planned = build_intervention(name, inputs.direction, inputs.layer, "harmful")
            key = digest([LOSS_VERSION, chat.identity, planned.depends_on, texts])
            journal = run.journal(f"loss-{dataset}-{name}", key)
            sums, new = text_losses(chat, inputs.trainer, planned.intervention, texts, journal, config.loss_batch_size)
            computed += new
            losses.setdefault(name, {})[dataset] = loss_entry(sums, config.loss_mask)
    if not computed:
        log.info("evaluate: nothing to compute, all answers and losses are there")
    keys = {place: task.key for place, task in tasks.items()}
    return Measured(keys, answers, losses, {dataset: digest(texts) for dataset, texts in loss_sets.items()})


def _files(inputs: Inputs, measured: Measured, judges: dict[str, Any]) -> dict[Path, MadeFrom]:
    """Every file that will be written, with what it is made from; some, as a baseline's, depend on no direction."""
    run, config, model = inputs.run, inputs.config, digest(inputs.chat.identity)
    settings = {
        "answer_version": ANSWER_VERSION,
        "max_new_tokens": config.max_new_tokens,
        "stop_tokens": inputs.chat.stop_ids,
        "sampling": asdict(config.sampling) if config.sampling else None,
    }
    files: dict[Path, MadeFrom] = {}

    def bound(*interventions: str) -> MadeFrom:
        directed = any(INTERVENTIONS[name].needs_direction for name in interventions)
        return {"model": model, "direction": inputs.bound_to if directed else None, "under": list(interventions)}

    for item in inputs.sets:
        name = item.prompts.name
        for intervention in config.interventions:
            answers = {"answers": measured.keys[name, intervention], "categories": digest(item.categories)}
            made_from = bound(intervention) | {"settings": settings} | answers
            files[run.completions(name, intervention)] = made_from
            files[run.completion_evaluations(name, intervention)] = made_from | {"judges": judges}
        keys = [measured.keys[name, intervention] for intervention in config.interventions]
        about = {"settings": settings, "answers": keys, "judges": judges}
        files[run.comparisons(name)] = bound(*config.interventions) | about
    texts: MadeFrom = {"texts": measured.texts, "loss_mask": config.loss_mask, "loss_version": LOSS_VERSION}
    for under in measured.losses:
        files[run.loss_eval(under)] = bound(under) | texts
    about = {"answers": digest([*measured.keys.values()]), "judges": judges} | texts
    files[run.report] = bound(*config.interventions) | {"direction": inputs.bound_to, "settings": settings} | about
    return files


def _write(
    inputs: Inputs,
    measured: Measured,
    files: dict[Path, MadeFrom],
    judges: dict[str, Judge],
    verdicts: ResponseCache,
) -> None:
    """Make room, then write completions, evaluations, comparisons and losses."""
    run, config, wanted = inputs.run, inputs.config, files[inputs.run.report]

    def stays(name: str, made_from: MadeFrom) -> bool:
        keys = ("model", "settings", "judges", "texts", "loss_mask", "loss_version")
        same = all(made_from[key] == wanted[key] for key in keys if key in made_from)
        return same and made_from["direction"] in (None, inputs.bound_to)

    beside = make_room(run, "evaluate", files, stays)
    if beside:
        log.info(
            f"evaluate: {in_short(run, beside)} of earlier runs stay in {run.path}, being of the same direction and "
            "settings; they are not in the table"
        )
    for item in inputs.sets:
        evaluations: dict[str, dict[str, Any]] = {}
        name = item.prompts.name
        for intervention in config.interventions:
            rows = [
                {"category": category, "prompt": instruction, "response": answer.response}
                for category, instruction, answer in zip(
                    item.categories, item.prompts.instructions, measured.answers[name, intervention], strict=True
                )
            ]
            write_json(run.completions(name, intervention), rows)
            evaluations[intervention] = evaluate_completions(rows, judges, verdicts)
            path = run.completion_evaluations(name, intervention)
            write_json(path, {**evaluations[intervention], "made_from": files[path]})
        compared = compare_evaluations(evaluations, list(judges))
        write_json(run.comparisons(name), {"comparisons": compared, "made_from": files[run.comparisons(name)]})
    for under, entry in measured.losses.items():
        write_json(run.loss_eval(under), entry)


def _entry(inputs: Inputs, measured: Measured, config: dict[str, Any], judges: list[str]) -> dict[str, Any]:
    """What run.json says of the evaluation."""
    sets = inputs.sets
    return {
        "config": config,
        "model": inputs.chat.identity,
        "position": inputs.position,
        "layer": inputs.layer,
        "direction": inputs.bound_to,
        "harmful": [item.prompts.name for item in sets if item.kind == "harmful"],
        "harmless": [item.prompts.name for item in sets if item.kind == "harmless"],
        "prompts": {
            item.prompts.name: {"count": len(item.prompts), "hash": digest(item.prompts.hashes)} for item in sets
        },
        "interventions": list(inputs.config.interventions),
        "judges": judges,
        "losses": bool(measured.losses),
        "hooks_proved": inputs.proof.figures(),
    }


def _tell(run: RunFolder) -> None:
    """The report, and the table that ends the stage."""
    summary = read_summary(run.path)
    write_text(run.report, render_report(summary, run.path))
    run.bind(run.report)
    log.info("")
    log.info(terminal_table(summary, run.path))
    log.info(f"report:   {run.report}")


def _counts(sets: Sequence[EvaluationSet], n_test: int | None) -> str:
    """How many prompts of each set are answered, and where that is fewer than asked for."""
    few = [item for item in sets if item.kind == "harmless" and n_test is not None and len(item.prompts) < n_test]
    counts = ", ".join(
        f"{len(item.prompts)} of {item.prompts.name}" + (" (all there are)" if item in few else "") for item in sets
    )
    return f"evaluate: answers to {counts}" + (f"; evaluate.n_test is {n_test}" if few else "")
