"""capability: tasks of lm-evaluation-harness on the intervened model (paper, section 4.3)."""

from __future__ import annotations

import difflib
import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from refusal_lightning.config import CapabilityConfig, ModelConfig, RunsConfig, TrainerConfig
from refusal_lightning.doctor.hook_proof import HookProof
from refusal_lightning.errors import UserError
from refusal_lightning.inputs.model import open_model
from refusal_lightning.interventions import BASELINE, Intervention, intervene
from refusal_lightning.interventions.registry import INTERVENTIONS, KeyedIntervention, build_intervention
from refusal_lightning.io.serialization import digest, write_json
from refusal_lightning.models import ChatModel
from refusal_lightning.models.engines.native import HookedModel
from refusal_lightning.models.fingerprint import file_digest
from refusal_lightning.runs.folder import RunFolder, direction_digest
from refusal_lightning.runs.made_from import MadeFrom, in_short, kept_aside, make_room, working
from refusal_lightning.stages.capability.own_tasks import alone, refuse_functions

log = logging.getLogger(__name__)

CAPABILITY_VERSION = 2
"""Raised when what the harness is given changes: scores of another version are not used. 2: one generation
configuration for every decoder."""


def capability(model: ModelConfig, trainer: TrainerConfig, runs: RunsConfig, capability: CapabilityConfig) -> None:
    """Run the tasks under each intervention with the run's direction, and write one file of scores for each.

    Activation addition subtracts the direction, as on harmful prompts. What is done already is not done again.
    """
    INTERVENTIONS.require(capability.interventions, "capability.interventions")
    task_manager = _task_manager(capability)
    if trainer.devices not in (1, "1", "auto") or trainer.num_nodes > 1:
        raise UserError("capability runs in one process; set trainer.devices: 1 (model.device_map spreads a model)")
    started = time.perf_counter()
    chat = open_model(model, trainer)
    run = RunFolder(runs.root, chat.alias)
    direction, position, layer = run.load_direction()
    run.prepare()
    bound_to = direction_digest(direction, position, layer)
    proof = HookProof("capability", chat, run.path / ".journal", ["harness"])
    with working(run, "capability", chat.identity, model.name, direction=bound_to):
        plans = {name: build_intervention(name, direction, layer, "harmful") for name in capability.interventions}
        files = _files(run, chat, plans, bound_to, capability)
        kept = {name: _kept(run, name, files[_path(run, name)]["key"]) for name in plans}
        _make_room(run, files, bound_to)
        found: dict[str, dict[str, Any]] = {}
        for name, planned in plans.items():
            made_from = files[_path(run, name)]
            scores = kept[name]
            if scores is None:
                from refusal_lightning.distributed.trainer import main_device

                log.info(f"capability: {', '.join(capability.tasks)} under {name}")
                decoder = chat.decoder(main_device(trainer))
                scores = run_tasks(decoder, chat, planned.intervention, capability, task_manager)
            found[name] = {**scores, "key": made_from["key"], "made_from": made_from}
            write_json(_path(run, name), found[name])
        if None not in kept.values():
            log.info("capability: nothing to compute, all scores are there")
        entry = {
            "config": {"model": asdict(model), "capability": asdict(capability)},
            "model": chat.identity,
            "position": position,
            "layer": layer,
            "direction": bound_to,
            "hooks_proved": proof.figures(),
        }
        run.record_stage("capability", entry, seconds=time.perf_counter() - started)
    log.info(_table(found))
    log.info(f"capability: wrote {run.path / 'capability'}")


def _path(run: RunFolder, intervention: str) -> Path:
    return run.path / "capability" / f"{intervention}.json"


def _files(
    run: RunFolder, chat: ChatModel, plans: dict[Any, KeyedIntervention], bound_to: str, config: CapabilityConfig
) -> dict[Path, MadeFrom]:
    """The files that will be written, with what they are made from."""
    no_matter = ("interventions", "batch_size", "trust_task_code")
    settings = {name: value for name, value in asdict(config).items() if name not in no_matter}
    settings["own_files"] = _own_files(config)
    # Which decoder is taken is known without weights: a model that is spread is called as it was spread.
    decoder = "whole" if chat.device_map is None else "spread"
    defined_by = [CAPABILITY_VERSION, chat.identity, chat.stop_ids, decoder, version("lm_eval")]
    return {
        _path(run, name): {
            "model": digest(chat.identity),
            "direction": bound_to if INTERVENTIONS[name].needs_direction else None,
            "under": [name],
            "settings": settings | {"defined_by": digest(defined_by)},
            "key": digest([*defined_by, planned.depends_on, settings]),
        }
        for name, planned in plans.items()
    }


def _make_room(run: RunFolder, files: dict[Path, MadeFrom], bound_to: str) -> None:
    wanted = next(iter(files.values()))

    def stays(name: str, made_from: MadeFrom) -> bool:
        same = all(made_from[key] == wanted[key] for key in ("model", "settings"))
        return same and made_from["direction"] in (None, bound_to)

    beside = make_room(run, "capability", files, stays)
    if beside:
        log.info(
            f"capability: {in_short(run, beside)} of earlier runs stay in {run.path}, being of the same direction and "
            "settings; they are not in the table"
        )


def run_tasks(
    model: HookedModel, chat: ChatModel, intervention: Intervention, config: CapabilityConfig, task_manager: Any
) -> dict[str, Any]:
    """Scores of each task: ``tasks[name]`` holds metrics and their standard errors; ``samples`` how many questions.

    ``model`` are the chat model's weights. Answers end at its stop tokens; of the checkpoint's own generation settings
    (a repetition penalty, a temperature) none is taken, whichever model decodes.
    """
    import lm_eval
    from jinja2 import TemplateError
    from lm_eval.models.huggingface import HFLM

    for name in ("lm_eval", "lm-eval"):
        logging.getLogger(name).setLevel(logging.ERROR)
    language_model = HFLM(pretrained=model.model, tokenizer=chat.tokenizer, batch_size=config.batch_size)
    try:
        settings = _generation_settings(model.model, chat)
        with alone(config.trust_task_code), settings, intervene(model, intervention):
            made = lm_eval.simple_evaluate(
                model=language_model,
                tasks=list(config.tasks),
                num_fewshot=config.num_fewshot,
                limit=config.limit,
                apply_chat_template=config.chat_template,
                task_manager=task_manager,
                log_samples=False,
            )
    except (OSError, ValueError, KeyError, ConnectionError, TemplateError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"capability.tasks: {', '.join(config.tasks)} could not be run ({reason})") from error
    assert made is not None
    return {
        "lm_eval": version("lm_eval"),
        "decoder": model.kind,
        "tasks": {name: _metrics(scores) for name, scores in made["results"].items()},
        "samples": {name: counts["effective"] for name, counts in made["n-samples"].items()},
        "versions": made["versions"],
        "n_shot": made["n-shot"],
    }


@contextmanager
def _generation_settings(model: Any, chat: ChatModel) -> Iterator[None]:
    """Greedy, to the chat model's stop tokens, and nothing else; the model has its own settings back at the end."""
    from transformers import GenerationConfig

    before = model.generation_config
    tokens = {"eos_token_id": list(chat.stop_ids) or None, "pad_token_id": chat.tokenizer.pad_token_id}
    model.generation_config = GenerationConfig(do_sample=False, **tokens)
    try:
        yield
    finally:
        model.generation_config = before


def _task_manager(config: CapabilityConfig) -> Any:
    """The harness's tasks and the user's. Raises UserError where the harness, the folder or a task is missing."""
    try:
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise UserError(
            f"capability needs lm-evaluation-harness ({error.name} is missing): pip install "
            "'refusal_lightning[capability]'"
        ) from error
    if config.include_path is not None and not Path(config.include_path).is_dir():
        raise UserError(f"capability.include_path: there is no folder {config.include_path!r}")
    if config.include_path is not None and not config.trust_task_code:
        refuse_functions(Path(config.include_path))
    manager = TaskManager(include_path=config.include_path)
    for task in config.tasks:
        if task not in manager.all_tasks:
            near = difflib.get_close_matches(task, manager.all_tasks, n=1)
            hint = f"; did you mean {near[0]}?" if near else "; files of your own go into capability.include_path"
            raise UserError(f"capability.tasks: there is no task {task!r}{hint}")
    return manager


def _own_files(config: CapabilityConfig) -> str:
    """A digest of the user's task files, so that other questions are asked anew."""
    folder = None if config.include_path is None else Path(config.include_path)
    files = sorted(path for path in folder.rglob("*") if path.is_file()) if folder else []
    return digest([[str(path.relative_to(folder)), file_digest(path)] for path in files])  # type: ignore[arg-type]


def _kept(run: RunFolder, intervention: str, key: str) -> dict[str, Any] | None:
    """Scores that were computed before, also those that were moved aside since; None where there are none."""
    path = _path(run, intervention)
    for place in (path, *kept_aside(run, str(path.relative_to(run.path)))):
        try:
            kept = json.loads(place.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(kept, dict) and kept.get("key") == key:
            return kept
    return None


def _metrics(scores: dict[str, Any]) -> dict[str, float]:
    """Numbers by plain names: `acc,none` of the harness is `acc`, and its standard error `acc_stderr`.

    A filter that is not `none` stays in the name: `exact_match,strict-match`, `exact_match,strict-match_stderr`.
    """
    plain = {}
    for name, value in scores.items():
        metric, _, chosen = name.partition(",")
        metric, error = metric.removesuffix("_stderr"), "_stderr" if metric.endswith("_stderr") else ""
        plain[metric + ("" if chosen in ("", "none") else f",{chosen}") + error] = value
    return {name: value for name, value in plain.items() if isinstance(value, float)}


def _table(found: dict[str, dict[str, Any]]) -> str:
    """A line per task and metric; interventions with their difference from the baseline."""
    first = next(iter(found.values()))
    lines = [f"{'':40}" + "".join(f"{name:>24}" for name in found)]
    for task, metrics in first["tasks"].items():
        for metric in metrics:
            if metric.endswith("_stderr"):
                continue
            cells = []
            for name, entry in found.items():
                value = entry["tasks"][task][metric]
                error = entry["tasks"][task].get(f"{metric}_stderr")
                cell = f"{value:.3f}" + (f" ± {error:.3f}" if error is not None else "")
                if name != BASELINE.name and BASELINE.name in found:
                    cell += f" ({value - found[BASELINE.name]['tasks'][task][metric]:+.3f})"
                cells.append(f"{cell:>24}")
            lines.append(f"{f'{task}, {metric}':40}" + "".join(cells))
    return "\n".join(lines)
