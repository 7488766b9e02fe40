"""The `judge` command: any file of completions in, verdicts and rates out."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from refusal_lightning import plugins
from refusal_lightning.errors import UserError
from refusal_lightning.io.files import writable_folder, write_text
from refusal_lightning.judges.config import JudgeConfig
from refusal_lightning.judges.model_judge import ModelJudge
from refusal_lightning.judges.rates import evaluate_completions, summary
from refusal_lightning.judges.registry import judges_by_name
from refusal_lightning.judges.response_cache import ResponseCache
from refusal_lightning.judges.sources.local import LocalLoader

_FIELDS = ("category", "prompt", "response")

log = logging.getLogger(__name__)


def judge_completions(config: JudgeConfig, load_local: LocalLoader | None = None) -> dict[str, Any]:
    """Judge a file, write the evaluation whole or not at all, print its rates, and return it.

    Raises UserError for a mistake in the file or the settings, before anything is asked.
    """
    source, out = Path(config.completions), Path(config.out)
    answers_path = Path(config.answers) if config.answers else out.with_name(f"{out.name}.answers.jsonl")
    rows = read_completions(source)
    if source.resolve() in (out.resolve(), answers_path.resolve()) or out.resolve() == answers_path.resolve():
        raise UserError("completions, out and answers must be three files")
    judges = judges_by_name(config.judges, config, load_local)
    writable_folder(out.parent, "out")  # before anything is asked and paid for
    if out.is_dir():
        raise UserError(f"out: {str(out)!r} is a folder; name a file")
    answers = ResponseCache(answers_path)
    if any(isinstance(judge, ModelJudge) for judge in judges.values()):
        answers.require_writable()
    evaluation = evaluate_completions(rows, judges, answers)
    if used := plugins.record():
        evaluation["plugins"] = used
    write_text(out, json.dumps(evaluation, indent=4, ensure_ascii=False, allow_nan=False) + "\n")
    log.info(f"{len(rows)} completions of {source}\n{summary(evaluation, list(judges))}\nresults: {out}")
    return evaluation


def read_completions(path: Path) -> list[dict[str, Any]]:
    """The completions in a JSON file, as they are. Raises UserError for anything that cannot be judged."""
    wanted = 'a list of {"category", "prompt", "response"}'
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"completions: there is no file {str(path)!r}") from None
    except OSError as error:
        raise UserError(f"completions: {str(path)!r} cannot be read: {error.strerror}") from error
    except ValueError as error:  # not JSON, or not UTF-8
        raise UserError(f"completions: {str(path)!r} is not JSON ({error}); it must be {wanted}") from error
    except RecursionError:
        raise UserError(f"completions: {str(path)!r} is nested too deeply; it must be {wanted}") from None
    if not isinstance(rows, list) or not rows:
        hint = "; give the list that it holds under `completions`" if isinstance(rows, dict) else ""
        raise UserError(f"completions: {str(path)!r} must be {wanted}, with at least one{hint}")
    for number, row in enumerate(rows):
        where = f"completions: row {number} of {str(path)!r}"
        if not isinstance(row, dict):
            raise UserError(f"{where} is {type(row).__name__}; each must be {{'category', 'prompt', 'response'}}")
        if missing := [field for field in _FIELDS if field not in row]:
            raise UserError(f"{where} has no {', '.join(missing)}")
        for field in ("prompt", "response"):
            if not isinstance(row[field], str):
                raise UserError(f"{where}: {field} is {type(row[field]).__name__}, not text")
        try:
            json.dumps(row, ensure_ascii=False, allow_nan=False).encode()
        except ValueError:
            raise UserError(f"{where} holds half a character (a lone surrogate), or a NaN") from None
    return rows
