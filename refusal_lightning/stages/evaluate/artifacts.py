"""What `evaluate` leaves in a run's folder: completions, evaluations, comparisons, losses, and what made each."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from refusal_lightning.interventions.registry import INTERVENTIONS
from refusal_lightning.io.hashing import digest
from refusal_lightning.io.serialization import write_json
from refusal_lightning.judges.registry import judges_made_from
from refusal_lightning.runs.folder import RunFolder
from refusal_lightning.runs.made_from import MadeFrom, in_short, make_room
from refusal_lightning.stages.evaluate.completions import ANSWER_VERSION
from refusal_lightning.stages.evaluate.evaluation import EvaluationResult, completion_rows
from refusal_lightning.stages.evaluate.inputs import EvaluationInputs
from refusal_lightning.stages.evaluate.losses import LOSS_VERSION

log = logging.getLogger(__name__)


def write_evaluation(run: RunFolder, result: EvaluationResult) -> None:
    """Move aside what is of another direction or other settings, then write everything but the report."""
    files = _files(run, result)
    _make_room(run, files, result.inputs)
    for item in result.inputs.sets:
        name = item.prompts.name
        for intervention in result.inputs.config.interventions:
            completions = result.answers[name, intervention]
            write_json(run.completions(name, intervention), completion_rows(item, completions))
            path = run.completion_evaluations(name, intervention)
            write_json(path, {**result.evaluations[name, intervention], "made_from": files[path]})
        path = run.comparisons(name)
        write_json(path, {"comparisons": result.comparisons[name], "made_from": files[path]})
    for under, losses in result.loss_entries.items():
        write_json(run.loss_eval(under), losses)


def record_of(result: EvaluationResult) -> dict[str, Any]:
    """What run.json says of the evaluation, beside its configuration."""
    inputs = result.inputs
    measures = {name: judge.measures for name, judge in inputs.judges.items()}
    return {
        "model": inputs.chat.identity,
        "position": inputs.selected.position,
        "layer": inputs.selected.layer,
        "direction": inputs.selected.digest,
        "harmful": [item.prompts.name for item in inputs.in_place_of("harmful")],
        "harmless": [item.prompts.name for item in inputs.in_place_of("harmless")],
        "prompts": {
            item.prompts.name: {"count": len(item.prompts), "hash": digest(item.prompts.hashes)} for item in inputs.sets
        },
        "interventions": list(inputs.config.interventions),
        "judges": list(inputs.judges),
        **({"measures": measures} if set(measures.values()) - {"refusal"} else {}),
        "losses": bool(result.loss_entries),
        "hooks_proved": result.hooks_proved,
    }


def _files(run: RunFolder, result: EvaluationResult) -> dict[Path, MadeFrom]:
    """Every file that will be written, with what it is made from."""
    inputs, config = result.inputs, result.inputs.config
    judges = judges_made_from(config.judges, inputs.judging)
    settings = {"answer_version": ANSWER_VERSION, **inputs.completion_settings}
    files: dict[Path, MadeFrom] = {}
    for item in inputs.sets:
        name = item.prompts.name
        for intervention in config.interventions:
            answers = {"answers": result.completion_keys[name, intervention], "categories": digest(item.categories)}
            made_from = _bound(inputs, [intervention]) | {"settings": settings} | answers
            files[run.completions(name, intervention)] = made_from
            files[run.completion_evaluations(name, intervention)] = made_from | {"judges": judges}
        keys = [result.completion_keys[name, intervention] for intervention in config.interventions]
        about = {"settings": settings, "answers": keys, "judges": judges}
        files[run.comparisons(name)] = _bound(inputs, config.interventions) | about
    texts: MadeFrom = {"texts": result.text_digests, "loss_mask": config.loss_mask, "loss_version": LOSS_VERSION}
    for under in result.loss_entries:
        files[run.loss_eval(under)] = _bound(inputs, [under]) | texts
    about = {"answers": digest([*result.completion_keys.values()]), "judges": judges} | texts
    files[run.report] = (
        _bound(inputs, config.interventions) | {"direction": inputs.selected.digest, "settings": settings} | about
    )
    return files


def _bound(inputs: EvaluationInputs, interventions: Sequence[str]) -> MadeFrom:
    """Model, direction and plugins; the baseline's results are of any direction."""
    directed = any(INTERVENTIONS[name].needs_direction for name in interventions)
    plugins = {name: origin for name in interventions if (origin := INTERVENTIONS.origin(name))}
    return {
        "model": digest(inputs.chat.identity),
        "direction": inputs.selected.digest if directed else None,
        "under": list(interventions),
        **({"plugins": plugins} if plugins else {}),
    }


def _make_room(run: RunFolder, files: Mapping[Path, MadeFrom], inputs: EvaluationInputs) -> None:
    wanted = files[run.report]

    def stays(name: str, made_from: MadeFrom) -> bool:
        keys = ("model", "settings", "judges", "texts", "loss_mask", "loss_version")
        same = all(made_from[key] == wanted[key] for key in keys if key in made_from)
        return same and made_from["direction"] in (None, inputs.selected.digest)

    beside = make_room(run, "evaluate", files, stays)
    if beside:
        log.info(
            f"evaluate: {in_short(run, beside)} of earlier runs stay in {run.path}, being of the same direction and "
            "settings; they are not in the table"
        )
