"""What `select` leaves in a run's folder: scores, the filter's report, the direction, and how sure it is."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from refusal_lightning.config import DataConfig, ModelConfig, SelectConfig, TrainerConfig
from refusal_lightning.directions.selection.candidates import rows
from refusal_lightning.directions.selection.choose import NoCandidateError, Selection
from refusal_lightning.directions.selection.filters import Thresholds
from refusal_lightning.directions.selection.report import DESCRIPTIONS
from refusal_lightning.directions.selection.schedule import Place
from refusal_lightning.directions.selection.uncertainty import uncertainty
from refusal_lightning.doctor.hook_proof import HookProof
from refusal_lightning.inputs.prompts import Filtered
from refusal_lightning.io.files import write_bytes, write_text
from refusal_lightning.io.hashing import digest, file_digest
from refusal_lightning.io.serialization import write_json
from refusal_lightning.models import ChatModel
from refusal_lightning.report.figures.registry import draw_all, figures_of
from refusal_lightning.report.figures.scores import ScoredCandidates
from refusal_lightning.report.summary import BY_HAND, BY_THE_RULES
from refusal_lightning.runs.folder import RunFolder, direction_digest, write_tensor
from refusal_lightning.runs.made_from import MadeFrom, make_room
from refusal_lightning.stages.select.cross_checks import ANSWER_KL_VERSION, cosmic_opinion
from refusal_lightning.stages.select.scoring import ScoreTable
from refusal_lightning.store import ActivationStore

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Inputs:
    """What every estimator's selection starts from."""

    chat: ChatModel
    store: ActivationStore
    kept: dict[str, Filtered]
    """The prompts by role, e.g. ``harmful_val``, after the filter."""
    refusal_tokens: list[dict[str, Any]]
    proof: HookProof
    model: ModelConfig
    data: DataConfig
    trainer: TrainerConfig
    config: SelectConfig


@dataclass(frozen=True)
class Scored:
    """What one estimator's selection came to."""

    estimator: str
    key: str
    """Under which the scores are in the store."""
    directions: Float[np.ndarray, "position layer d_model"]
    norms: Float[np.ndarray, "position layer"]
    table: ScoreTable
    selection: Selection | NoCandidateError
    ruled_out: Callable[[], dict[Place, str]]
    """Candidates that lack scores since they were proven out, or left alone, with the reason."""
    answer_kl: dict[Place, np.ndarray]
    """By candidate: KL over the answers' first tokens, per prompt; empty where it was not asked for."""


def thresholds_of(config: SelectConfig) -> Thresholds:
    """The filter's rules."""
    return Thresholds(config.kl_threshold, config.induce_threshold, config.prune_layers)


def write_selection(run: RunFolder, inputs: Inputs, scored: Scored, seconds: Callable[[], float]) -> None:
    """Write one estimator's selection. Raises the selection's NoCandidateError, everything else being written."""
    selection, config = scored.selection, inputs.config
    made_from = _made_from(inputs, scored)
    baseline = {kind: float(inputs.kept[f"{kind}_val"].scores.mean()) for kind in ("harmful", "harmless")}
    place = None if isinstance(selection, NoCandidateError) else (selection.pos, selection.layer)
    direction = None if place is None else torch.from_numpy(scored.directions[place])
    bound_to = None if direction is None or place is None else direction_digest(direction, *place)
    _make_room(run, inputs, made_from, bound_to, _names(run, scored))

    write_tensor(run.mean_diffs, torch.from_numpy(scored.directions))
    write_json(run.evaluations, rows(scored.table.means()))
    write_json(run.evaluations_meta, _about_table(run, scored, config))
    _plot(run, inputs, scored.table, baseline, place)
    entry: dict[str, Any] = {
        "config": {"model": asdict(inputs.model), "data": asdict(inputs.data), "select": asdict(config)},
        "estimator": scored.estimator,
        "model": inputs.chat.identity,
        "made_from": made_from,
        "store": inputs.store.url,
        "prompts": {
            f.prompts.name: {"drawn": f.drawn, "kept": len(f.prompts), "hash": digest(f.prompts.hashes)}
            for f in inputs.kept.values()
        },
        "refusal_tokens": inputs.refusal_tokens,
        "scores": scored.key,
        "baseline_refusal_score": baseline,
        "hooks_proved": inputs.proof.figures(),
    }
    if isinstance(selection, NoCandidateError):
        write_json(run.filtered, [])
        write_text(run.filter_report, selection.report.text() + "\n")
        run.record_stage("select", {**entry, "selected": None}, seconds())
        log.info(selection.report.text())
        raise selection
    write_json(run.filtered, [candidate._asdict() for candidate in selection.survivors])
    write_text(run.filter_report, _report(selection) + "\n")
    if scored.answer_kl:
        write_json(run.answer_kl, _answer_kl_rows(scored.answer_kl, config.answer_kl_tokens))
    opinions = [] if selection.by_hand else _write_opinions(run, inputs, scored, selection)
    assert direction is not None
    write_tensor(run.direction, direction)
    write_json(run.direction_metadata, {"pos": selection.pos, "layer": selection.layer})
    chosen = {
        "selected": selection.scores._asdict(),
        "chosen": BY_HAND if selection.by_hand else BY_THE_RULES,
        "fails": list(selection.fails),
        "direction": bound_to,
        "margin": selection.margin,
        "direction_norm": float(scored.norms[selection.pos, selection.layer]),
    }
    run.record_stage("select", entry | chosen, seconds())
    for line in (_line(selection, scored, baseline), *opinions):
        log.info(f"select: {line}")
    if scored.answer_kl:
        kl = scored.answer_kl[selection.pos, selection.layer].mean()
        log.info(f"select: KL over the first {config.answer_kl_tokens} answer tokens {kl:.3f}")
    log.info(f"select: wrote {run.path}")


def _made_from(inputs: Inputs, scored: Scored) -> MadeFrom:
    """Everything that the files depend on."""
    config = asdict(inputs.config)
    rules = ("mode", "kl_threshold", "induce_threshold", "prune_layers", "position", "layer", "answer_kl_tokens")
    return {
        "model": digest(inputs.chat.identity),
        "estimator": scored.estimator,
        "scores": scored.key,
        "prompts": {f.prompts.name: digest(f.prompts.hashes) for f in inputs.kept.values()},
        "rules": {name: config[name] for name in rules},
        "seed": inputs.data.seed,
        "answer_kl": [ANSWER_KL_VERSION, inputs.chat.stop_ids] if inputs.config.answer_kl_tokens else None,
    }


def _names(run: RunFolder, scored: Scored) -> list[Path]:
    """The files that will be written."""
    names = [run.mean_diffs, run.evaluations, run.evaluations_meta, run.filtered, run.filter_report]
    names += [run.evaluations.parent / f"{name}.png" for name in figures_of(ScoredCandidates)]
    if isinstance(scored.selection, Selection):
        names += [run.direction, run.direction_metadata]
        names += [] if scored.selection.by_hand else [run.uncertainty, run.cosmic]
        names += [run.answer_kl] if scored.answer_kl else []
    return names


def _about_table(run: RunFolder, scored: Scored, config: SelectConfig) -> dict[str, Any]:
    """How the table of scores came about, for who chooses from it again (see ``directions.partial_table``)."""
    whole = all(done.all() for done in scored.table.done.values())
    thresholds = thresholds_of(config)
    out = {} if whole else scored.ruled_out()
    return {
        "table_sha256": file_digest(run.evaluations),
        "complete": whole,
        "thresholds": asdict(thresholds),
        "ruled_out": [
            {"position": position, "layer": layer, "reason": reason} for (position, layer), reason in out.items()
        ],
    }


def _make_room(run: RunFolder, inputs: Inputs, made_from: MadeFrom, direction: str | None, names: list[Path]) -> None:
    """Other selections' files go aside, and what other directions' results there are; those of this one stay."""
    own = {"model": made_from["model"], "selection": digest(made_from)}

    def stays(name: str, other: MadeFrom) -> bool:
        return other["model"] == own["model"] and "direction" in other and other["direction"] in (None, direction)

    record = run.read_record()
    others = ("evaluate", "capability", "analyze")
    forget = [stage for stage in others if record.get(stage, {}).get("direction") != direction]
    # Selections of other estimators that are not made again now: of the same prompts and rules they stay.
    config, same = inputs.config, {**made_from, "estimator": None, "scores": None}
    also = []
    for folder in sorted((run.path / "estimators").glob("*")):
        theirs = RunFolder(folder.parent, folder.name).read_record().get("select", {}).get("made_from", {})
        if folder.name not in config.estimators[1:] and {**theirs, "estimator": None, "scores": None} != same:
            also.append(folder)
    make_room(run, "select", dict.fromkeys(names, own), stays, also=also, forget=forget)


def _write_opinions(run: RunFolder, inputs: Inputs, scored: Scored, selection: Selection) -> list[str]:
    """How sure the rules' choice is, and what COSMIC says of it: files, and a line for each."""
    draws = np.random.default_rng(inputs.data.seed)
    table = scored.table
    certainty = uncertainty(
        table.prompt_scores(), thresholds_of(inputs.config), scored.norms, draws, hopeless=table.computed_nan()
    )
    write_json(run.uncertainty, certainty.to_json())
    harmful, harmless = (inputs.kept[f"{kind}_val"].prompts for kind in ("harmful", "harmless"))
    cosmic = cosmic_opinion(inputs.store, harmful, harmless, scored.directions, selection)
    write_json(run.cosmic, cosmic)
    (pos, layer), count = cosmic["best_of_survivors"], cosmic["rank_of_selected"]
    agrees = "agrees" if not count else f"prefers {count} of the survivors, first position {pos}, layer {layer}"
    return [certainty.summary(), f"COSMIC's cosine criterion (a second opinion, no forward pass) {agrees}"]


def _report(selection: Selection) -> str:
    """The filter's report, headed by the choice where it was made by hand."""
    text = selection.report.text()
    return f"{_by_hand(selection)}\n{text}" if selection.by_hand else text


def _by_hand(selection: Selection) -> str:
    fails = ", ".join(DESCRIPTIONS[rule] for rule in selection.fails)
    verdict = f"the rules would drop it ({fails})" if fails else "it fails no rule"
    return f"position {selection.pos}, layer {selection.layer} chosen by hand; {verdict}"


def _line(selection: Selection, scored: Scored, baseline: dict[str, float]) -> str:
    best, (n_positions, n_layers, _) = selection.scores, scored.directions.shape
    head = f"position {best.position}, layer {best.layer} of {n_layers}"
    tail = f"{len(selection.survivors)} of {n_positions * n_layers} candidates passed"
    if selection.by_hand:
        tail = _by_hand(selection)
    return (
        f"{head}: bypass {best.refusal_score:.3f} (baseline {baseline['harmful']:.3f}), induce "
        f"{best.steering_score:.3f} (baseline {baseline['harmless']:.3f}), KL {best.kl_div_score:.3f}; {tail}"
    )


def _answer_kl_rows(answer_kl: dict[Place, np.ndarray], n_tokens: int) -> list[dict[str, Any]]:
    return [
        {"position": position, "layer": layer, "n_tokens": n_tokens, "kl": float(kl.mean())}
        for (position, layer), kl in answer_kl.items()
    ]


def _plot(run: RunFolder, inputs: Inputs, table: ScoreTable, baseline: dict[str, float], chosen: Place | None) -> None:
    tokens = [inputs.chat.tokenizer.decode([i]) for i in inputs.chat.eoi_ids]
    for name, png in draw_all(ScoredCandidates(table.means(), tokens, baseline, chosen)).items():
        write_bytes(run.evaluations.parent / f"{name}.png", png)
