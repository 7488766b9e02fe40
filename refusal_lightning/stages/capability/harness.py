"""lm-evaluation-harness on an intervened model."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

from refusal_lightning.config import CapabilityConfig
from refusal_lightning.errors import UserError
from refusal_lightning.interventions import Intervention, intervene
from refusal_lightning.io.shipped import locate
from refusal_lightning.io.text import one_line
from refusal_lightning.models import ChatModel
from refusal_lightning.models.engines.protocol import Engine
from refusal_lightning.stages.capability.own_tasks import alone, require_no_functions


def open_tasks(config: CapabilityConfig) -> Any:
    """The harness's tasks and the user's. Raises UserError where the harness, the folder or a task is missing."""
    try:
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise UserError(
            f"capability needs lm-evaluation-harness ({error.name} is missing): pip install "
            "'refusal-lightning[capability]'"
        ) from error
    folder = None if config.include_path is None else locate(config.include_path)
    if folder is not None and not folder.is_dir():
        raise UserError(f"capability.include_path: there is no folder {config.include_path!r}")
    if folder is not None and not config.trust_task_code:
        require_no_functions(folder)
    manager = TaskManager(include_path=None if folder is None else str(folder))
    for task in config.tasks:
        if task not in manager.all_tasks:
            near = difflib.get_close_matches(task, manager.all_tasks, n=1)
            hint = f"; did you mean {near[0]}?" if near else "; files of your own go into capability.include_path"
            raise UserError(f"capability.tasks: there is no task {task!r}{hint}")
    return manager


def run_tasks(
    engine: Engine, chat: ChatModel, intervention: Intervention, config: CapabilityConfig, task_manager: Any
) -> dict[str, Any]:
    """Scores of each task: ``tasks[name]`` holds metrics and their standard errors; ``samples`` how many questions.

    ``engine`` runs the chat model. Answers end at its stop tokens; of the checkpoint's own generation settings
    (a repetition penalty, a temperature) none is taken, whichever model decodes.
    """
    import lm_eval
    from jinja2 import TemplateError
    from lm_eval.models.huggingface import HFLM

    for name in ("lm_eval", "lm-eval"):
        logging.getLogger(name).setLevel(logging.ERROR)
    language_model = HFLM(pretrained=engine.model, tokenizer=chat.tokenizer, batch_size=config.batch_size)
    try:
        settings = _generation_settings(engine.model, chat)
        with alone(config.trust_task_code), settings, intervene(engine, intervention):
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
        reason = one_line(error)[:300]
        raise UserError(f"capability.tasks: {', '.join(config.tasks)} could not be run ({reason})") from error
    assert made is not None
    return {
        "lm_eval": version("lm_eval"),
        "decoder": engine.kind,
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
