"""The choice of one direction from the table of candidates: filter, then the lowest bypass score."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from refusal_lightning.directions.selection.candidates import Candidate, CandidateScores, Place
from refusal_lightning.directions.selection.filters import PAPER_THRESHOLDS, RULES, Thresholds, dropped_by, failures
from refusal_lightning.directions.selection.report import FilterReport, filter_report
from refusal_lightning.directions.vectors import ZERO_NORM
from refusal_lightning.errors import UserError


class NoCandidateError(UserError):
    """The filter left no candidate. ``report`` is the FilterReport; the message is its summary."""

    def __init__(self, report: FilterReport) -> None:
        super().__init__(f"no direction selected: {report.summary()}")
        self.report = report


@dataclass(frozen=True)
class Selection:
    """The chosen candidate and those it was chosen from."""

    position: int
    """Its position, negative."""
    layer: int
    """Its layer."""
    scores: Candidate
    """It with its three scores."""
    survivors: tuple[Candidate, ...]
    """All that passed the filter, lowest bypass score first: the order of
    ``direction_evaluations_filtered.json``.
    """
    report: FilterReport
    """What the filter did."""
    by_hand: bool = False
    """Whether a person chose it, and not the rules."""
    fails: tuple[str, ...] = ()
    """The rules of ``filters.RULES`` that it fails: none where the rules chose it."""

    @property
    def place(self) -> Place:
        """(position, layer)."""
        return self.position, self.layer

    @property
    def margin(self) -> float:
        """Bypass score of the runner-up minus that of the chosen one (log-odds, 0 on a tie; NaN if it is
        alone, or chosen by hand).
        """
        if self.by_hand or len(self.survivors) < 2:
            return float("nan")
        return self.survivors[1].bypass - self.survivors[0].bypass


def select(
    scores: CandidateScores,
    thresholds: Thresholds = PAPER_THRESHOLDS,
    norms: Float[np.ndarray, "position layer"] | None = None,
    ruled_out: Mapping[Place, str] | None = None,
) -> Selection:
    """The candidate with the lowest bypass score among those that pass the filter (paper section 2.3,
    appendix C).

    Dropped are: candidates with NaN in any score, in the last layers, with a KL score above or an induce
    score below its threshold, and (ours) with a zero direction. Ties go to the first in order
    of iteration: position outer from -n, layer inner. Scores are compared as given, in their own precision.

    ``norms`` are the directions' norms; without them see ``filters.zero_norm``. ``ruled_out`` comes from a
    staged run whose table has no scores for candidates proven out early. Raises NoCandidateError, which
    carries the report, if nothing is left.
    """
    survivors = _survivors(scores, dropped_by(scores, thresholds, norms, ruled_out))
    report = filter_report(scores, thresholds, norms, ruled_out)
    if not survivors:
        raise NoCandidateError(report)
    best = survivors[0]
    return Selection(best.position, best.layer, best, survivors, report)


def require_direction(place: Place, norms: Float[np.ndarray, "position layer"]) -> None:
    """Raise UserError where the direction at a place is zero: it can be neither ablated nor added."""
    if norms[place] <= ZERO_NORM:
        raise UserError(
            f"select.position {place[0]}, select.layer {place[1]}: the direction there is zero, since all prompts have "
            "the same activation; choose another layer"
        )


def choose_by_hand(
    place: Place,
    scores: CandidateScores,
    thresholds: Thresholds,
    norms: Float[np.ndarray, "position layer"],
    ruled_out: Mapping[Place, str] | None = None,
) -> Selection:
    """The candidate at a (position, layer), whatever the rules say of it; what they say is beside it.

    Arguments as of ``select``; ``ruled_out`` may name candidates that were not scored as "unscored".
    """
    fails = failures(scores, thresholds, norms)
    failed = tuple(rule for rule in RULES if fails[rule][place])
    survivors = _survivors(scores, dropped_by(scores, thresholds, norms, ruled_out))
    report = filter_report(scores, thresholds, norms, ruled_out)
    return Selection(*place, scores.at(*place), survivors, report, by_hand=True, fails=failed)


def _survivors(scores: CandidateScores, reasons: Mapping[Place, str]) -> tuple[Candidate, ...]:
    """Those without a reason to be dropped, lowest bypass score first."""
    left = [candidate for candidate in scores if candidate.place not in reasons]
    return tuple(sorted(left, key=lambda candidate: candidate.bypass))
