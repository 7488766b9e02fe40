"""A table that staged scoring left, chosen from again: right, or refused."""

from __future__ import annotations

import numpy as np
import pytest

from refusal_lightning.directions.selection.candidates import CandidateScores, Place
from refusal_lightning.directions.selection.choose import NoCandidateError, select
from refusal_lightning.directions.selection.filters import Thresholds, failures
from refusal_lightning.directions.selection.partial_table import StagedTable, undecided
from refusal_lightning.directions.selection.schedule import KEPT, bypass_bar

SHAPE = (3, 6)
NORMS = np.ones(SHAPE)
MADE = Thresholds(kl=0.5, induce=0.0, prune_layers=0.2)


def full_table(seed: int) -> CandidateScores:
    rng = np.random.default_rng(seed)
    bypass, induce, kl = rng.normal(size=SHAPE), rng.normal(0.3, 1, size=SHAPE), rng.uniform(0.01, 1, size=SHAPE)
    bypass[rng.integers(3), rng.integers(6)] = np.nan  # which was computed
    return CandidateScores(bypass, induce, kl)


def staged(full: CandidateScores, seed: int) -> tuple[CandidateScores, StagedTable]:
    """What staged scoring leaves of it: some candidates are out by part of their prompts, so that no score is there."""
    rng = np.random.default_rng(seed)
    bypass, induce, kl = (x.copy() for x in (full.bypass, full.induce, full.kl))
    fails, bar = failures(full, MADE), bypass_bar(full, MADE, NORMS, keep=KEPT)
    ruled_out: dict[Place, str] = {}
    for row, layer in np.ndindex(SHAPE):
        place = (row - SHAPE[0], layer)
        if fails["pruned_layer"][place]:
            bypass[place] = induce[place] = kl[place] = np.nan
        elif fails["induce"][place]:
            bypass[place] = kl[place] = np.nan
            if rng.random() < 0.5:
                induce[place], ruled_out[place] = np.nan, "induce"
        elif fails["kl"][place]:
            bypass[place] = np.nan
            if rng.random() < 0.5:
                kl[place], ruled_out[place] = np.nan, "kl"
        elif full.bypass[place] > bar and rng.random() < 0.7:
            bypass[place], ruled_out[place] = np.nan, "beaten"
    return CandidateScores(bypass, induce, kl), StagedTable(MADE, ruled_out)


def chosen(scores: CandidateScores, thresholds: Thresholds) -> tuple[int, int] | None:
    try:
        found = select(scores, thresholds)
    except NoCandidateError:
        return None
    return found.position, found.layer


@pytest.mark.parametrize(
    "now",
    [
        MADE,
        Thresholds(kl=0.3, induce=0.2, prune_layers=0.2),
        Thresholds(kl=0.1, induce=0.5, prune_layers=0.4),
        Thresholds(kl=0.8, induce=0.0, prune_layers=0.2),
        Thresholds(kl=0.5, induce=-0.5, prune_layers=0.2),
        Thresholds(kl=0.5, induce=0.0, prune_layers=None),
        Thresholds(kl=None, induce=None, prune_layers=None),
    ],
)
def test_what_is_not_refused_is_right(now: Thresholds) -> None:
    refused = 0
    for seed in range(60):
        full = full_table(seed)
        table, made = staged(full, seed)
        if undecided(table, now, made):
            refused += 1
        else:
            assert chosen(table, now) == chosen(full, now)
    looser = chosen is None or any(
        (getattr(now, rule) is None or sign * getattr(now, rule) > sign * getattr(MADE, rule))
        for rule, sign in (("kl", 1), ("induce", -1), ("prune_layers", -1))
    )
    assert refused > 40 if looser else refused < 60
    if now == MADE:
        assert refused == 0


def test_nobody_knows_without_the_file_beside_it() -> None:
    full = full_table(0)
    table, made = staged(full, 0)
    assert len(undecided(table, MADE)) >= sum(reason == "beaten" for reason in made.ruled_out.values())
