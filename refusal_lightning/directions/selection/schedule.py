"""Staged scoring: each score only where the rules before it leave a candidate standing; the choice stays the
same.

Pruned layers and zero directions are never run. The induce score comes first (it is the cheapest: nothing
below the candidate's layer changes), the KL score only for those that induce, the bypass score only for those
that pass both. Within a score, ``proven_out`` drops a candidate as soon as its partial sum proves it out. A
candidate is dropped only if the exhaustive rule drops it or its bypass score is above those of ``KEPT`` others, so the
selection is that of an exhaustive run, ties and NaN included (``tests/directions/test_schedule.py``).

What is next follows from the table of scores alone: an interrupted run goes on by asking again, on any number of
processes, and does the passes that are left of the same ones.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from jaxtyping import Bool, Float

from refusal_lightning.directions.selection.bounds import SLACK
from refusal_lightning.directions.selection.candidates import CandidateScores, Place, ScoreKind
from refusal_lightning.directions.selection.filters import RULES, Thresholds, failures
from refusal_lightning.directions.selection.score_table import ScoreTable, places_of

STAGES: tuple[ScoreKind, ...] = ("induce", "kl", "bypass")
"""The order of scoring."""
KEPT = 5
"""So many of the best candidates are always scored in full: they are reported, and nothing beaten is among them."""
SHARED = 8
"""Candidates that share passes (ablation); those of one layer do for induce scores."""
ROUND = 16
"""Bypass scores are computed in rounds: the best of earlier rounds drop candidates of later ones early."""

ProvenOut = Callable[[float, float], bool]
"""Whether a candidate whose mean score lies between two numbers is out."""


@dataclass
class ScoreTask:
    """One kind of score of several candidates that share passes (for induce: of one layer)."""

    kind: ScoreKind
    places: tuple[Place, ...]


@dataclass(frozen=True)
class Work:
    """What to compute next: tasks of one kind, and when a candidate may be dropped on the way."""

    tasks: list[ScoreTask]
    proven_out: ProvenOut | None = None

    @property
    def kind(self) -> ScoreKind:
        """The kind of score of all its tasks."""
        return self.tasks[0].kind

    @property
    def n_candidates(self) -> int:
        """How many candidates it is about."""
        return sum(len(task.places) for task in self.tasks)


def next_work(
    mode: str, table: ScoreTable, thresholds: Thresholds, norms: Float[np.ndarray, "position layer"]
) -> Work | None:
    """The next scores to compute; None when nothing is left.

    Exhaustive: every score of every candidate. Staged: only what the choice may depend on. Which candidates share a
    task follows from the scores of earlier kinds and rounds alone, so that an interrupted run, or one on another
    number of processes, does the same passes.
    """
    if mode == "exhaustive":
        for kind in STAGES:
            tasks = [task for task in _tasks(kind, table.places()) if not _complete(table, task, ())]
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
    done: dict[ScoreKind, np.ndarray] = {**table.done, kind: np.zeros(norms.shape, dtype=bool)}
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


def ruled_out(
    table: ScoreTable, thresholds: Thresholds, norms: Float[np.ndarray, "position layer"]
) -> dict[Place, str]:
    """Candidates that the prompts computed so far prove out, with the reason (see ``proven_out``)."""
    bar = bypass_bar(table.means(), thresholds, norms, keep=KEPT)
    found: dict[Place, str] = {}
    for kind in STAGES:
        for place in table.partial(kind):
            reason = proven_out(kind, *table.interval(kind, place), thresholds, bar)
            if reason is not None:
                found.setdefault(place, reason)
    return found


def unscored(table: ScoreTable, thresholds: Thresholds, norms: Float[np.ndarray, "position layer"]) -> dict[Place, str]:
    """Candidates of which scores are missing that might yet pass: neither proven out, nor failing a rule as it is."""
    done = np.all(list(table.done.values()), axis=0)
    fails = failures(table.means(), thresholds, norms)
    out = np.any([fails[rule] for rule in RULES if rule != "nan"], axis=0) | table.computed_nan()
    return dict.fromkeys(places_of(~done & ~out), "unscored")


def next_scores(
    scores: CandidateScores,
    done: Mapping[ScoreKind, Bool[np.ndarray, "position layer"]],
    thresholds: Thresholds,
    norms: Float[np.ndarray, "position layer"],
    ruled_out: Collection[Place] = (),
) -> tuple[ScoreKind, list[Place]] | None:
    """What to compute next: one kind of score and the candidates that need it, in order of iteration.

    None when nothing is left. ``done`` says for each kind which scores are in (a NaN that is done was
    computed and drops the candidate); ``norms`` are the directions' norms; ``ruled_out`` lists candidates
    proven out early. The answer depends on these alone: an interrupted run continues with the same call, on
    any number of processes. A rule that is switched off still has its score computed, since NaN in any score
    drops a candidate.
    """
    fails = failures(scores, thresholds, norms)
    alive = ~(fails["zero_norm"] | fails["pruned_layer"])
    for position, layer in ruled_out:
        alive[position, layer] = False
    for kind in STAGES:
        needed = alive & ~done[kind]
        if needed.any():
            return kind, places_of(needed)
        alive &= ~np.isnan(scores[kind])
        if kind != "bypass":
            alive &= ~fails[kind]
    return None


def proven_out(kind: ScoreKind, low: float, high: float, thresholds: Thresholds, bar: float = np.inf) -> str | None:
    """Why a candidate whose mean score lies in [low, high] is out, or None while that is open.

    "induce" or "kl": it fails that rule. "beaten": its bypass score is above ``bar`` (see ``bypass_bar``).
    Proof takes a margin of ``bounds.SLACK``, so that ties and values at a threshold are always computed in
    full.
    """
    if kind == "induce" and thresholds.induce is not None and high < thresholds.induce - SLACK:
        return "induce"
    if kind == "kl" and thresholds.kl is not None and low > thresholds.kl + SLACK:
        return "kl"
    if kind == "bypass" and low > bar + SLACK:
        return "beaten"
    return None


def bypass_bar(
    scores: CandidateScores,
    thresholds: Thresholds,
    norms: Float[np.ndarray, "position layer"],
    keep: int = 1,
) -> float:
    """The ``keep``-th lowest bypass score among complete candidates that pass the filter; inf while there are
    fewer.

    A candidate proven above it is not among the ``keep`` best. Which of the beaten ones are complete depends
    on the order of scoring: to be independent of the number of processes, take the bar from rounds of a fixed
    size.
    """
    dropped = np.any(list(failures(scores, thresholds, norms).values()), axis=0)
    known = np.sort(scores.bypass[~dropped])
    return float(known[keep - 1]) if len(known) >= keep else np.inf


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
    return replace(scores, **{kind: np.full(scores.shape, np.nan)})


def _only(scores: CandidateScores, places: Collection[Place]) -> CandidateScores:
    """The table with the bypass scores of these candidates only."""
    bypass = np.full(scores.shape, np.nan)
    for place in places:
        bypass[place] = scores.bypass[place]
    return replace(scores, bypass=bypass)
