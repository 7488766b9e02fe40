"""Staged scoring: each score only where the rules before it leave a candidate standing; the choice stays the
same.

Pruned layers and zero directions are never run. The induce score comes first (it is the cheapest: nothing
below the candidate's layer changes), the KL score only for those that induce, the bypass score only for those
that pass both. Within a score, ``proven_out`` drops a candidate as soon as its partial sum proves it out. A
candidate is dropped only if the exhaustive rule drops it or its bypass score is above another's, so the
selection is that of an exhaustive run, ties and NaN included.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

from refusal_lightning.directions.selection.bounds import SLACK
from refusal_lightning.directions.selection.candidates import CandidateScores
from refusal_lightning.directions.selection.filters import Thresholds, failures

ScoreKind = Literal["induce", "kl", "bypass"]
STAGES: tuple[ScoreKind, ...] = ("induce", "kl", "bypass")
"""The order of scoring."""
FIELDS: dict[ScoreKind, str] = {
    "induce": "steering_score",
    "kl": "kl_div_score",
    "bypass": "refusal_score",
}
"""Which score of the table each kind fills."""
Place = tuple[int, int]
"""(position, layer) of a candidate, the position negative."""
ProvenOut = Callable[[float, float], bool]
"""Whether a candidate whose mean score lies between two numbers is out."""


@dataclass
class ScoreTask:
    """One kind of score of several candidates that share passes (for induce: of one layer)."""

    kind: ScoreKind
    places: tuple[Place, ...]


def empty_scores(shape: tuple[int, int]) -> CandidateScores:
    """A table for (n_positions, n_layers) candidates with no score yet, all NaN, to be filled in place."""
    return CandidateScores(*np.full((3, *shape), np.nan))


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
            n_positions = scores.shape[0]
            return kind, [(int(row) - n_positions, int(layer)) for row, layer in np.argwhere(needed)]
        alive &= ~np.isnan(getattr(scores, FIELDS[kind]))
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
    known = np.sort(scores.refusal_score[~dropped])
    return float(known[keep - 1]) if len(known) >= keep else np.inf


@dataclass(frozen=True)
class StagedRun:
    """What a staged run computed."""

    scores: CandidateScores
    """The table, NaN where a score was not needed."""
    evaluations: dict[ScoreKind, int]
    """How many candidates each kind of score was computed for."""

    def share(self, kind: ScoreKind) -> float:
        """The share of all candidates that needed this score, 0 to 1."""
        return self.evaluations[kind] / self.scores.refusal_score.size

    def summary(self) -> str:
        """One line: how many of the candidates needed each score."""
        total = self.scores.refusal_score.size
        parts = (f"{kind} {self.evaluations[kind]} ({self.share(kind):.0%})" for kind in STAGES)
        return f"scores needed, of {total} candidates: {', '.join(parts)}"


def staged_scores(
    score: Callable[[ScoreKind, list[Place]], list[float]],
    thresholds: Thresholds,
    norms: Float[np.ndarray, "position layer"],
) -> StagedRun:
    """Fill a table in stages; ``score`` gives one kind of score for a list of candidates, in their order."""
    scores = empty_scores((norms.shape[0], norms.shape[1]))
    done: dict[ScoreKind, np.ndarray] = {kind: np.zeros(norms.shape, dtype=bool) for kind in STAGES}
    while (step := next_scores(scores, done, thresholds, norms)) is not None:
        kind, places = step
        for place, value in zip(places, score(kind, places), strict=True):
            getattr(scores, FIELDS[kind])[place] = value
            done[kind][place] = True
    return StagedRun(scores, {kind: int(done[kind].sum()) for kind in STAGES})
