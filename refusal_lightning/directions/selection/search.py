"""The search for the best candidate: compute the scores that the choice may depend on, and choose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
from jaxtyping import Float

from refusal_lightning.directions.selection.candidates import Place
from refusal_lightning.directions.selection.choose import NoCandidateError, Selection, choose_by_hand, require_direction
from refusal_lightning.directions.selection.choose import select as choose
from refusal_lightning.directions.selection.filters import Thresholds
from refusal_lightning.directions.selection.schedule import (
    KEPT,
    Work,
    near_misses,
    next_work,
    ruled_out,
    unscored,
    work_by_hand,
)
from refusal_lightning.directions.selection.score_table import ScoreTable

Choice = Selection | NoCandidateError
"""What the scores choose, or that they choose nothing, with the reasons."""
Score = Callable[[Work], None]
"""Computes scores and enters them in the table; each task's candidates in full, or until they are proven out."""


@dataclass(frozen=True)
class Rules:
    """How a candidate is chosen."""

    thresholds: Thresholds
    mode: Literal["staged", "exhaustive"] = "staged"
    by_hand: Place | None = None
    """The candidate that a person has chosen."""


def search(table: ScoreTable, norms: Float[np.ndarray, "position layer"], rules: Rules, score: Score) -> Choice:
    """Have ``score`` fill the table as far as the choice may depend on it, and choose.

    ``norms`` are those of the directions. The table may have scores already. Raises UserError where a person has chosen
    a direction that is zero.
    """
    thresholds, place = rules.thresholds, rules.by_hand
    if place is not None:
        require_direction(place, norms)
    if place is not None and rules.mode == "staged":
        _compute(score, partial(work_by_hand, table, place))
    else:
        _compute(score, partial(next_work, rules.mode, table, thresholds, norms))
    if place is not None:
        return choose_by_hand(place, table.means(), thresholds, norms, reasons(table, thresholds, norms))
    choice = _choice(table, norms, rules)
    if rules.mode == "exhaustive" or isinstance(choice, Selection):
        return choice
    # Staged scoring stopped where a candidate was out; by how much it missed is what the user needs to know now. What
    # is finished here must not depend on what an interrupted run has finished of it.
    _compute(score, partial(near_misses, table, replace(thresholds, kl=None), norms))
    choice = _choice(table, norms, rules)
    if isinstance(choice, Selection) or any(change.key == "kl_threshold" for change in choice.report.changes):
        return choice
    _compute(score, partial(near_misses, table, replace(thresholds, induce=None), norms))
    return _choice(table, norms, rules)


def reasons(table: ScoreTable, thresholds: Thresholds, norms: Float[np.ndarray, "position layer"]) -> dict[Place, str]:
    """Why candidates lack scores: left alone, or proven out before all prompts were run."""
    return unscored(table, thresholds, norms) | ruled_out(table, thresholds, norms)


def best_places(selection: Selection) -> list[Place]:
    """The candidates that are looked at more closely: the best, or the one that was chosen by hand."""
    if selection.by_hand:
        return [selection.place]
    return [candidate.place for candidate in selection.survivors[:KEPT]]


def _compute(score: Score, upcoming: Callable[[], Work | None]) -> None:
    """Compute what is upcoming until nothing is."""
    while (work := upcoming()) is not None:
        score(work)


def _choice(table: ScoreTable, norms: Float[np.ndarray, "position layer"], rules: Rules) -> Choice:
    dropped_early = ruled_out(table, rules.thresholds, norms) if rules.mode == "staged" else None
    try:
        return choose(table.means(), rules.thresholds, norms, dropped_early)
    except NoCandidateError as error:
        return error
