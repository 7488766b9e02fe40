"""Choosing again from a table that staged scoring left: which candidates it cannot judge under other thresholds.

Such a table lacks scores of candidates that were out under the thresholds of that time. Under others they may be in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from refusal_lightning.directions.selection.candidates import SCORES, CandidateScores, Place
from refusal_lightning.directions.selection.filters import RULES, Thresholds, failures, zero_norm
from refusal_lightning.directions.selection.schedule import KEPT, bypass_bar
from refusal_lightning.directions.selection.score_table import places_of


@dataclass(frozen=True)
class StagedTable:
    """How a table with missing scores came about."""

    thresholds: Thresholds
    """Those it was scored under."""
    ruled_out: Mapping[Place, str]
    """Why scoring stopped, for candidates that part of their prompts proved out (``schedule.proven_out``), or that were
    left alone ("unscored")."""


def undecided(scores: CandidateScores, thresholds: Thresholds, made: StagedTable | None = None) -> list[Place]:
    """Candidates that lack a score and might be chosen under these thresholds, in order of iteration.

    Without ``made`` a missing score may be one that was computed and is NaN, so these are those that only might be.
    """
    lacking = np.any([np.isnan(scores[kind]) for kind in SCORES], axis=0)
    open_now = lacking & ~_fails(scores, thresholds)
    places = places_of(open_now)
    if made is None:
        return places
    failed_then, best = _fails(scores, made.thresholds), bypass_bar(scores, thresholds, _norms(scores), keep=1)
    beaten_is_out = best <= bypass_bar(scores, made.thresholds, _norms(scores), keep=KEPT)

    def is_open(place: Place) -> bool:
        reason = made.ruled_out.get(place)
        if reason == "beaten":
            return not beaten_is_out
        if reason in ("induce", "kl"):
            return not _as_strict(reason, thresholds, made.thresholds)
        # Stopped at a rule of that time, or left alone; else a score was computed and is NaN, and it is out for good.
        return reason == "unscored" or bool(failed_then[place])

    return [place for place in places if is_open(place)]


def _fails(scores: CandidateScores, thresholds: Thresholds) -> np.ndarray:
    """Which candidates fail a rule by the scores that they have."""
    fails = failures(scores, thresholds)
    return np.any([fails[rule] for rule in RULES if rule != "nan"], axis=0)


def _norms(scores: CandidateScores) -> np.ndarray:
    """A table does not have them; a zero direction has no scores, or a KL score of 0 at layer 0."""
    return np.where(zero_norm(scores), 0.0, 1.0)


def _as_strict(rule: str, now: Thresholds, then: Thresholds) -> bool:
    """Whether what failed a rule then fails it now."""
    if rule == "induce":
        return now.induce is not None and then.induce is not None and now.induce >= then.induce
    return now.kl is not None and then.kl is not None and now.kl <= then.kl
