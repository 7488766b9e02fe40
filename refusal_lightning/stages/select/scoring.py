"""The candidates' intervention scores: computed once, per prompt, and kept in the store under what they depend on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float

from refusal_lightning.config import TrainerConfig
from refusal_lightning.directions.selection.bounds import PartialMean, kl_lower_bounds, refusal_score_bound
from refusal_lightning.directions.selection.candidates import CandidateScores
from refusal_lightning.directions.selection.filters import RULES, Thresholds, failures
from refusal_lightning.directions.selection.partial_table import KEPT
from refusal_lightning.directions.selection.schedule import (
    FIELDS,
    STAGES,
    Place,
    ProvenOut,
    ScoreKind,
    ScoreTask,
    bypass_bar,
    next_scores,
    proven_out,
)
from refusal_lightning.directions.selection.uncertainty import PromptScores
from refusal_lightning.distributed.journal import Journal, Record
from refusal_lightning.distributed.predict import PredictLoop, run_journaled
from refusal_lightning.distributed.process_group import barrier
from refusal_lightning.inputs.prompts import PromptSet
from refusal_lightning.inputs.stored_logits import StoredLogits
from refusal_lightning.io.console import is_main_process
from refusal_lightning.io.versions import package_versions
from refusal_lightning.models import ChatModel
from refusal_lightning.stages.select.kept_results import KeptResults

log = logging.getLogger(__name__)

Bounds = tuple[np.ndarray, np.ndarray]
SHARED = 8
"""Candidates that share passes (ablation); those of one layer do for induce scores."""
ROUND = 16
"""Bypass scores are computed in rounds: the best of earlier rounds drop candidates of later ones early."""


def score_bounds(n_harmful: int, harmless_logits: StoredLogits) -> dict[ScoreKind, Bounds]:
    """The least and the largest value of each kind of score for each prompt (see ``directions.bounds``)."""
    most = refusal_score_bound()
    n_harmless = len(harmless_logits)
    lowest_kl = harmless_logits.each(kl_lower_bounds)
    return {
        "bypass": (np.full(n_harmful, -most), np.full(n_harmful, most)),
        "induce": (np.full(n_harmless, -most), np.full(n_harmless, most)),
        "kl": (lowest_kl, np.full(n_harmless, np.inf)),
    }


class ScoreTable:
    """Scores of candidates for every prompt: ``values[kind]`` is ``[position, layer, prompt]``, float64.

    ``seen[kind]`` marks what has been computed (a computed score may be NaN); a candidate that was proven out has some
    prompts only. Lives in the store as one result (see ``KeptResults``); a journal holds what an interrupted run had
    computed beyond that.
    """

    def __init__(
        self,
        results: KeptResults,
        key: str,
        journal: Journal,
        shape: tuple[int, int],
        bounds: dict[ScoreKind, Bounds],
    ) -> None:
        """``bounds[kind]`` are the least and the largest value that each prompt's score can have."""
        self.results, self._key, self.journal, self.bounds = results, key, journal, bounds
        n_prompts = {kind: len(low) for kind, (low, _) in bounds.items()}
        self.values: dict[ScoreKind, np.ndarray] = {kind: np.full((*shape, n_prompts[kind]), np.nan) for kind in STAGES}
        self.seen: dict[ScoreKind, np.ndarray] = {kind: np.zeros((*shape, n_prompts[kind]), bool) for kind in STAGES}
        self.made_with: list[dict[str, str]] = []
        """Package versions of the processes that computed what is stored."""
        for arrays, attrs in results.found(key):
            self.made_with += [made for made in attrs.get("made_with", []) if made not in self.made_with]
            for kind in STAGES:
                there = arrays[f"{kind}_seen"].astype(bool)
                np.copyto(self.values[kind], arrays[kind], where=there)
                self.seen[kind] |= there
        self.add(journal)

    def add(self, records: Iterable[Record]) -> None:
        """Take in what a journal holds."""
        for record in records:
            for place, scores, prompts in zip(record["places"], record["scores"], record["prompts"], strict=True):
                values, seen = (table[record["kind"]][tuple(place)] for table in (self.values, self.seen))
                values[prompts], seen[prompts] = scores, True

    def save(self, depends_on: dict[str, Any]) -> None:
        """Keep everything."""
        arrays: dict[str, np.ndarray] = {kind: self.values[kind] for kind in STAGES}
        arrays.update({f"{kind}_seen": self.seen[kind] for kind in STAGES})
        here = package_versions()
        made_with = [*self.made_with, *([] if here in self.made_with else [here])]
        self.results.save(self._key, arrays, {**depends_on, "made_with": made_with})

    @property
    def done(self) -> dict[ScoreKind, np.ndarray]:
        """Which candidates have a score of every prompt."""
        return {kind: np.asarray(self.seen[kind].all(axis=-1)) for kind in STAGES}

    def means(self) -> CandidateScores:
        """Each candidate's scores: means over the prompts; NaN where not computed for all of them."""
        mean = {kind: self.values[kind].mean(axis=-1) for kind in STAGES}
        return CandidateScores(refusal_score=mean["bypass"], steering_score=mean["induce"], kl_div_score=mean["kl"])

    def prompt_scores(self) -> PromptScores:
        """The same for every prompt."""
        return PromptScores(bypass=self.values["bypass"], induce=self.values["induce"], kl=self.values["kl"])

    def computed_nan(self) -> Bool[np.ndarray, "position layer"]:
        """Which candidates have a score that was computed and is NaN: whatever else is computed, they are out."""
        return np.any([(self.seen[kind] & np.isnan(self.values[kind])).any(axis=-1) for kind in STAGES], axis=0)

    def interval(self, kind: ScoreKind, place: Place) -> tuple[float, float]:
        """What a candidate's mean lies between, by the prompts that were computed."""
        partial = PartialMean(*self.bounds[kind])
        index = np.flatnonzero(self.seen[kind][place])
        partial.add(index.tolist(), self.values[kind][place][index])
        return partial.low, partial.high

    def partial(self, kind: ScoreKind) -> list[Place]:
        """Candidates of which some prompts were computed and others not."""
        n_positions = self.seen[kind].shape[0]
        found = np.argwhere(self.seen[kind].any(axis=-1) & ~self.seen[kind].all(axis=-1))
        return [(int(row) - n_positions, int(layer)) for row, layer in found]


@dataclass(frozen=True)
class Work:
    """What to compute next: tasks of one kind, and when a candidate may be dropped on the way."""

    tasks: list[ScoreTask]
    proven_out: ProvenOut | None = None

    @property
    def kind(self) -> ScoreKind:
        return self.tasks[0].kind


def ruled_out(
    table: ScoreTable, thresholds: Thresholds, norms: Float[np.ndarray, "position layer"]
) -> dict[Place, str]:
    """Candidates that the prompts computed so far prove out, with the reason (see ``staging.proven_out``)."""
    bar = bypass_bar(table.means(), thresholds, norms, keep=KEPT)
    found: dict[Place, str] = {}
    for kind in STAGES:
        for place in table.partial(kind):
            reason = proven_out(kind, *table.interval(kind, place), thresholds, bar)
            if reason is not None:
                found.setdefault(place, reason)
    return found


def next_work(
    mode: str, table: ScoreTable, thresholds: Thresholds, norms: Float[np.ndarray, "position layer"]
) -> Work | None:
    """The next scores to compute; None when nothing is left.

    Exhaustive: every score of every candidate. Staged: only what the choice may depend on. Which candidates share a
    task follows from the scores of earlier kinds and rounds alone, so that an interrupted run, or one on another
    number of processes, does the same passes.
    """
    if mode == "exhaustive":
        n_positions, n_layers = norms.shape
        everything = [(position, layer) for position in range(-n_positions, 0) for layer in range(n_layers)]
        for kind in STAGES:
            tasks = [task for task in _tasks(kind, everything) if not _complete(table, task, ())]
            if tasks:
                return Work(tasks)
        return None
    out = ruled_out(table, thresholds, norms)
    upcoming = next_scores(table.means(), table.done, thresholds, norms, out)
    if upcoming is None:
        return None
    kind = upcoming[0]
    # The whole list of this kind, done or not: how it is divided must not depend on where an earlier run stopped.
    earlier = {place: reason for place, reason in out.items() if not table.seen[kind][place].any()}
    done = {**table.done, kind: np.zeros(norms.shape, dtype=bool)}
    whole = next_scores(_without(table.means(), kind), done, thresholds, norms, earlier)
    places = whole[1] if whole is not None and whole[0] == kind else upcoming[1]
    rounds = [places] if kind != "bypass" else [places[i : i + ROUND] for i in range(0, len(places), ROUND)]
    before: set[Place] = set()
    for candidates in rounds:
        tasks = [task for task in _tasks(kind, candidates) if not _complete(table, task, out)]
        if tasks:
            bar = bypass_bar(_only(table.means(), before), thresholds, norms, keep=KEPT)
            return Work(tasks, partial(_is_out, kind, thresholds, bar))
        before |= set(candidates)
    return None


def near_misses(table: ScoreTable, without: Thresholds, norms: Float[np.ndarray, "position layer"]) -> Work | None:
    """The next scores that tell which value of a rule would let a candidate through; None when nothing is left.

    ``without`` are the thresholds with that rule switched off. Bypass scores do not matter to it.
    """
    work = next_work("staged", table, without, norms)
    return work if work is not None and work.kind != "bypass" else None


def work_by_hand(table: ScoreTable, place: Place) -> Work | None:
    """The next scores that one candidate lacks; None when it has all."""
    lacking = [kind for kind in STAGES if not table.done[kind][place]]
    return Work([ScoreTask(lacking[0], (place,))]) if lacking else None


def unscored(table: ScoreTable, thresholds: Thresholds, norms: Float[np.ndarray, "position layer"]) -> dict[Place, str]:
    """Candidates of which scores are missing that might yet pass: neither proven out, nor failing a rule as it is."""
    done = np.all(list(table.done.values()), axis=0)
    fails = failures(table.means(), thresholds, norms)
    out = np.any([fails[rule] for rule in RULES if rule != "nan"], axis=0) | table.computed_nan()
    n_positions = len(done)
    return {(int(row) - n_positions, int(layer)): "unscored" for row, layer in np.argwhere(~done & ~out)}


def _is_out(kind: ScoreKind, thresholds: Thresholds, bar: float, low: float, high: float) -> bool:
    return proven_out(kind, low, high, thresholds, bar) is not None


def _tasks(kind: ScoreKind, places: Sequence[Place]) -> list[ScoreTask]:
    """Candidates that share passes: for induce those of one layer, else neighbours in the list."""
    if kind == "induce":
        layers = sorted({layer for _, layer in places})
        return [ScoreTask(kind, tuple(place for place in places if place[1] == layer)) for layer in layers]
    return [ScoreTask(kind, tuple(places[i : i + SHARED])) for i in range(0, len(places), SHARED)]


def _complete(table: ScoreTable, task: ScoreTask, out: Collection[Place]) -> bool:
    done = table.done[task.kind]
    return all(done[place] or place in out for place in task.places)


def _without(scores: CandidateScores, kind: ScoreKind) -> CandidateScores:
    """The table before a kind of score was computed."""
    return replace(scores, **{FIELDS[kind]: np.full(scores.shape, np.nan)})


def _only(scores: CandidateScores, places: Collection[Place]) -> CandidateScores:
    """The table with the bypass scores of these candidates only."""
    bypass = np.full(scores.shape, np.nan)
    for place in places:
        bypass[place] = scores.refusal_score[place]
    return replace(scores, refusal_score=bypass)


def compute_scores(
    table: ScoreTable,
    *,
    chat: ChatModel,
    trainer: TrainerConfig,
    directions: Float[np.ndarray, "position layer d_model"],
    harmful: PromptSet,
    harmless: PromptSet,
    harmless_logits: StoredLogits,
    upcoming: Callable[[], Work | None],
    batch_size: int,
    save: Callable[[list[Record]], None],
) -> int:
    """Compute what is upcoming until nothing is. Returns how many candidates' scores were computed.

    The model is loaded only if there is something to compute.
    """
    computed = 0
    while (work := upcoming()) is not None:
        from refusal_lightning.modules.scores import ScoreModule  # Lightning takes seconds to import

        if is_main_process():
            table.results.find_place()
        count = sum(len(task.places) for task in work.tasks)
        log.info(f"select: {work.kind} scores of {count} candidates")
        module = ScoreModule(
            chat,
            torch.from_numpy(directions),
            (harmful if work.kind == "bypass" else harmless).token_ids,
            harmless_logits if work.kind == "kl" else None,
            work.kind,
            batch_size,
            table.bounds[work.kind],
            work.proven_out,
            log.info,
        )
        table.add(_predict(table, work.tasks, module, trainer))
        barrier()  # everybody sees the same scores before the next are chosen
        computed += count
    table.journal.drain(save)
    return computed


def _predict(table: ScoreTable, tasks: list[ScoreTask], module: Any, trainer: TrainerConfig) -> list[Record]:
    from refusal_lightning.modules.scores import ScoreResult

    def records(result: ScoreResult) -> Iterable[dict[str, Any]]:
        # One line for all of a task's candidates: a kill never leaves a part of a task.
        prompts = [np.flatnonzero(row) for row in result.seen]
        yield {
            "kind": result.task.kind,
            "places": result.task.places,
            "prompts": [index.tolist() for index in prompts],
            "scores": [row[index].tolist() for row, index in zip(result.scores, prompts, strict=True)],
        }

    return run_journaled(trainer, PredictLoop(module, lambda: list(tasks)), table.journal, records)
