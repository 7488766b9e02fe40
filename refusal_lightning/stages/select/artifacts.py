"""What `select` leaves in a run's folder: scores, the filter's report, the direction, and how sure it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from refusal_lightning.config import ModelConfig
from refusal_lightning.directions.selection.candidates import Place, rows
from refusal_lightning.directions.selection.choose import NoCandidateError, Selection
from refusal_lightning.io.files import write_bytes, write_text
from refusal_lightning.io.hashing import digest, file_digest
from refusal_lightning.io.serialization import write_json
from refusal_lightning.report.figures.registry import draw_all, figures_of
from refusal_lightning.report.figures.scores import ScoredCandidates
from refusal_lightning.report.summary import BY_HAND, BY_THE_RULES
from refusal_lightning.runs.folder import RunFolder, direction_digest, write_tensor
from refusal_lightning.runs.made_from import MadeFrom, make_room
from refusal_lightning.stages.select.cross_checks import ANSWER_KL_VERSION
from refusal_lightning.stages.select.result import SelectionResult, report_text


def write_selection(run: RunFolder, result: SelectionResult, model: ModelConfig, seconds: Callable[[], float]) -> None:
    """Write one estimator's selection, the record of it last; ``seconds`` is how long it took until now."""
    made_from, selection, direction = _made_from(result), result.choice, result.vector
    tensor = None if direction is None else torch.from_numpy(direction)
    bound_to = None
    if isinstance(selection, Selection) and tensor is not None:
        bound_to = direction_digest(tensor, *selection.place)
    _make_room(run, result, made_from, bound_to)
    write_tensor(run.mean_diffs, torch.from_numpy(result.directions))
    write_json(run.evaluations, rows(result.table.means()))
    write_json(run.evaluations_meta, _about_table(run, result))
    _plot(run, result)
    entry = _entry(result, model, made_from)
    if isinstance(selection, NoCandidateError):
        write_json(run.filtered, [])
        write_text(run.filter_report, selection.report.text() + "\n")
        run.record_stage("select", {**entry, "selected": None}, seconds())
        return
    write_json(run.filtered, [candidate.row() for candidate in selection.survivors])
    write_text(run.filter_report, report_text(selection) + "\n")
    if result.answer_kl:
        write_json(run.answer_kl, _answer_kl_rows(result.answer_kl, result.settings.answer_kl_tokens))
    if result.uncertainty is not None:
        write_json(run.uncertainty, result.uncertainty.to_json())
    if result.cosmic is not None:
        write_json(run.cosmic, result.cosmic)
    assert tensor is not None
    write_tensor(run.direction, tensor)
    write_json(run.direction_metadata, {"pos": selection.position, "layer": selection.layer})
    chosen = {
        "selected": selection.scores.row(),
        "chosen": BY_HAND if selection.by_hand else BY_THE_RULES,
        "fails": list(selection.fails),
        "direction": bound_to,
        "margin": selection.margin,
        "direction_norm": float(result.norms[selection.place]),
    }
    run.record_stage("select", entry | chosen, seconds())


def _entry(result: SelectionResult, model: ModelConfig, made_from: MadeFrom) -> dict[str, Any]:
    """What run.json says of every selection, whether something was chosen or not."""
    inputs = result.inputs
    return {
        "config": {"model": asdict(model), "data": asdict(inputs.data), "select": asdict(result.settings)},
        "estimator": result.estimator,
        "model": inputs.chat.identity,
        "made_from": made_from,
        "store": inputs.store.url,
        "prompts": result.prompts,
        "refusal_tokens": inputs.refusal_tokens,
        "scores": result.key,
        "baseline_refusal_score": inputs.baseline,
        "hooks_proved": result.hooks_proved,
    }


def _made_from(result: SelectionResult) -> MadeFrom:
    """Everything that the files depend on."""
    inputs, config = result.inputs, asdict(result.settings)
    rules = ("mode", "kl_threshold", "induce_threshold", "prune_layers", "position", "layer", "answer_kl_tokens")
    return {
        "model": digest(inputs.chat.identity),
        "estimator": result.estimator,
        "scores": result.key,
        "prompts": {f.prompts.name: digest(f.prompts.hashes) for f in inputs.kept.values()},
        "rules": {name: config[name] for name in rules},
        "seed": inputs.data.seed,
        "answer_kl": [ANSWER_KL_VERSION, inputs.chat.stop_ids] if result.settings.answer_kl_tokens else None,
    }


def _names(run: RunFolder, result: SelectionResult) -> list[Path]:
    """The files that will be written."""
    names = [run.mean_diffs, run.evaluations, run.evaluations_meta, run.filtered, run.filter_report]
    names += [run.score_plot(name) for name in figures_of(ScoredCandidates)]
    names += [] if result.vector is None else [run.direction, run.direction_metadata]
    names += [] if result.uncertainty is None else [run.uncertainty]
    names += [] if result.cosmic is None else [run.cosmic]
    return names + ([run.answer_kl] if result.answer_kl else [])


def _about_table(run: RunFolder, result: SelectionResult) -> dict[str, Any]:
    """How the table of scores came about, for who chooses from it again (see ``directions.partial_table``)."""
    return {
        "table_sha256": file_digest(run.evaluations),
        "complete": result.table.complete,
        "thresholds": asdict(result.rules.thresholds),
        "ruled_out": [
            {"position": position, "layer": layer, "reason": reason}
            for (position, layer), reason in result.reasons.items()
        ],
    }


def _make_room(run: RunFolder, result: SelectionResult, made_from: MadeFrom, direction: str | None) -> None:
    """Other selections' files go aside, and what other directions' results there are; those of this one stay."""
    own = {"model": made_from["model"], "selection": digest(made_from)}

    def stays(name: str, other: MadeFrom) -> bool:
        return other["model"] == own["model"] and "direction" in other and other["direction"] in (None, direction)

    record = run.read_record()
    others = ("evaluate", "capability", "analyze")
    forget = [stage for stage in others if record.get(stage, {}).get("direction") != direction]
    # Selections of other estimators that are not made again now: of the same prompts and rules they stay.
    same = {**made_from, "estimator": None, "scores": None}
    also = []
    for folder in sorted(run.estimators.glob("*")):
        theirs = RunFolder(folder.parent, folder.name).read_record().get("select", {}).get("made_from", {})
        if folder.name not in result.settings.estimators[1:] and {**theirs, "estimator": None, "scores": None} != same:
            also.append(folder)
    make_room(run, "select", dict.fromkeys(_names(run, result), own), stays, also=also, forget=forget)


def _answer_kl_rows(answer_kl: Mapping[Place, np.ndarray], n_tokens: int) -> list[dict[str, Any]]:
    return [
        {"position": position, "layer": layer, "n_tokens": n_tokens, "kl": float(kl.mean())}
        for (position, layer), kl in answer_kl.items()
    ]


def _plot(run: RunFolder, result: SelectionResult) -> None:
    for name, png in draw_all(result.scored).items():
        write_bytes(run.score_plot(name), png)
