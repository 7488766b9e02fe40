"""The schedule of scoring, driven by a scorer that knows all scores: its choice is the exhaustive one."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refusal_lightning.directions.selection.bounds import PartialMean
from refusal_lightning.directions.selection.candidates import SCORES, Candidate, CandidateScores, Place, from_rows
from refusal_lightning.directions.selection.choose import NoCandidateError, select
from refusal_lightning.directions.selection.filters import PAPER_THRESHOLDS, Thresholds, zero_norm
from refusal_lightning.directions.selection.schedule import (
    KEPT,
    ROUND,
    SHARED,
    STAGES,
    ScoreTask,
    Work,
    bypass_bar,
    next_work,
    proven_out,
)
from refusal_lightning.directions.selection.score_table import ScoreTable
from refusal_lightning.directions.selection.search import Choice, Rules, search

SHARED_FOLDER = Path(__file__).parents[2].parent / "shared"
BOUND = 8.0
LEAST_KL = -0.5
LEVELS = {"bypass": [-3.0, -1.0, 0.0, 0.05], "induce": [-2.0, 0.0, 0.2, 1.0], "kl": [0.0, 0.05, 0.1, 0.3]}
"""Means of scores: few values, so that there are ties, and values at a threshold."""
THRESHOLDS = st.builds(
    Thresholds,
    kl=st.sampled_from([0.1, 0.0, -1.0, None]),
    induce=st.sampled_from([0.0, -2.0, 2.0, None]),
    prune_layers=st.sampled_from([0.2, 0.5, None]),
)


class StoppedError(Exception):
    """The run was killed."""


@dataclass
class Scorer:
    """Knows every prompt's score, and computes as ``modules.scores`` does: some prompts at a time, candidates that are
    proven out on the way dropped, a task's scores entered when it is done. Stops where it is told to."""

    scores: dict[str, np.ndarray]
    at_once: int
    norms: np.ndarray
    table: ScoreTable = field(init=False)
    done: list[tuple[str, tuple[Place, ...]]] = field(default_factory=list)
    """The tasks that were computed, in order."""

    def __post_init__(self) -> None:
        low = {"bypass": -BOUND, "induce": -BOUND, "kl": LEAST_KL}
        high = {"bypass": BOUND, "induce": BOUND, "kl": math.inf}
        n = {kind: self.scores[kind].shape[-1] for kind in SCORES}
        bounds = {kind: (np.full(n[kind], low[kind]), np.full(n[kind], high[kind])) for kind in SCORES}
        self.table = ScoreTable.empty((self.norms.shape[0], self.norms.shape[1]), bounds)

    def means(self) -> CandidateScores:
        return CandidateScores(*(self.scores[kind].mean(axis=-1) for kind in SCORES))

    def run(self, work: Work) -> None:
        for task in work.tasks:
            self.run_task(task, work)

    def run_task(self, task: ScoreTask, work: Work) -> None:
        for place in task.places:
            values, partial = self.scores[task.kind][place], PartialMean(*self.table.bounds[task.kind])
            while not partial.complete:
                prompts = np.arange(partial.n_seen, min(partial.n_seen + self.at_once, len(values)))
                partial.add(prompts.tolist(), values[prompts])
                if work.proven_out is not None and work.proven_out(partial.low, partial.high):
                    break
            self.table.enter(task.kind, place, range(partial.n_seen), values[: partial.n_seen])
        self.done.append((task.kind, task.places))

    def killed_at_random(self, rng: np.random.Generator, work: Work) -> None:
        """Some of the tasks, in any order as several processes do them; then, mostly, no more."""
        order = rng.permutation(len(work.tasks))[: rng.integers(0, len(work.tasks) + 1)]
        for number in order:
            self.run_task(work.tasks[number], work)
        if len(order) < len(work.tasks) or rng.random() < 0.3:
            raise StoppedError


@st.composite
def scorers(draw: st.DrawFn, nan: float = 0.05) -> Scorer:
    shape = draw(st.sampled_from([(1, 1), (2, 5), (3, 6), (5, 9)]))
    rng, n = np.random.default_rng(draw(st.integers(0, 2**32 - 1))), draw(st.integers(1, 7))
    # The same score for every prompt, noise around the mean, or noise that moves the mean too.
    noise, moves = draw(st.sampled_from([(0.0, 0.0), (0.4, 0.0), (2.0, 1.0)]))
    # Few candidates that pass, so that none may be left, or mostly such, so that there are several rounds.
    passing = draw(st.sampled_from([0.25, 0.9]))
    scores: dict[str, np.ndarray] = {}
    for kind in SCORES:
        good = {"bypass": [0, 1, 2, 3], "induce": [1, 2, 3], "kl": [0, 1, 2]}[kind]
        weights = np.array([passing / len(good) if level in good else 1 - passing for level in range(4)])
        means = rng.choice(LEVELS[kind], size=(*shape, 1), p=weights / weights.sum())
        around = rng.uniform(-noise, noise, size=(*shape, n)) * (0.1 if kind == "kl" else 1)
        values = np.round(means + around - (1 - moves) * around.mean(axis=-1, keepdims=True), 2 if moves else 12)
        values[rng.random(values.shape) < nan / n] = np.nan
        scores[kind] = np.clip(values, LEAST_KL if kind == "kl" else -BOUND, None if kind == "kl" else BOUND)
    norms = rng.choice([0.0, 1.0, 2.0], size=shape, p=[0.1, 0.6, 0.3])
    return Scorer(scores, draw(st.integers(1, 4)), norms)


def again(scorer: Scorer) -> Scorer:
    """The same with an empty table."""
    return Scorer(scorer.scores, scorer.at_once, scorer.norms)


def survivors(choice: Choice) -> list[Candidate]:
    """The best of those that passed."""
    return [] if isinstance(choice, NoCandidateError) else list(choice.survivors[:KEPT])


def exhaustive(scores: CandidateScores, thresholds: Thresholds, norms: np.ndarray | None) -> Choice:
    try:
        return select(scores, thresholds, norms)
    except NoCandidateError as error:
        return error


@settings(max_examples=300, deadline=None)
@given(scorers(), THRESHOLDS)
def test_staged_equals_exhaustive(scorer: Scorer, thresholds: Thresholds) -> None:
    """The five best, ties and NaN included. Only where nothing passes is a score completed that was proof enough."""
    found = search(scorer.table, scorer.norms, Rules(thresholds), scorer.run)
    expected = exhaustive(scorer.means(), thresholds, scorer.norms)
    assert survivors(found) == survivors(expected)
    asked = [(kind, place) for kind, places in scorer.done for place in places]
    assert len(asked) == len(set(asked)) or isinstance(found, NoCandidateError)


@settings(max_examples=300, deadline=None)
@given(scorers(), THRESHOLDS, st.sampled_from(["staged", "exhaustive"]), st.integers(0, 2**32 - 1))
def test_an_interrupted_search_does_the_passes_of_one_that_is_not(
    scorer: Scorer, thresholds: Thresholds, mode: str, seed: int
) -> None:
    whole, rules = again(scorer), Rules(thresholds, mode)  # type: ignore[arg-type]
    expected = search(whole.table, whole.norms, rules, whole.run)
    rng = np.random.default_rng(seed)
    while True:
        try:
            found = search(scorer.table, scorer.norms, rules, lambda work: scorer.killed_at_random(rng, work))
            break
        except StoppedError:
            continue
    assert sorted(scorer.done) == sorted(whole.done)
    for kind in SCORES:
        np.testing.assert_array_equal(scorer.table.values[kind], whole.table.values[kind])
        np.testing.assert_array_equal(scorer.table.seen[kind], whole.table.seen[kind])
    assert survivors(found) == survivors(expected)
    assert isinstance(found, NoCandidateError) == isinstance(expected, NoCandidateError)


@settings(max_examples=200, deadline=None)
@given(scorers(), THRESHOLDS, THRESHOLDS)
def test_other_thresholds_later_choose_as_at_once(scorer: Scorer, before: Thresholds, after: Thresholds) -> None:
    """Scores that an earlier search has left are used, whatever it needed them for."""
    search(scorer.table, scorer.norms, Rules(before), scorer.run)
    found = search(scorer.table, scorer.norms, Rules(after), scorer.run)
    assert survivors(found) == survivors(exhaustive(scorer.means(), after, scorer.norms))


@settings(max_examples=200, deadline=None)
@given(scorers(nan=0.0), THRESHOLDS)
def test_where_nothing_passes_the_nearest_miss_is_known(scorer: Scorer, thresholds: Thresholds) -> None:
    """The threshold that would let a candidate through is that of the exhaustive table: KL first, then induce."""
    found = search(scorer.table, scorer.norms, Rules(thresholds), scorer.run)
    expected = exhaustive(scorer.means(), thresholds, scorer.norms)
    if isinstance(found, NoCandidateError) and isinstance(expected, NoCandidateError):
        wanted = [change for change in expected.report.changes if change.key != "prune_layers"][:1]
        named = [(change.key, change.value, change.candidate.place) for change in found.report.changes]
        assert [(change.key, change.value, change.candidate.place) for change in wanted] == named[:1]


def scorer_of(scores: CandidateScores, norms: np.ndarray) -> Scorer:
    """One prompt of each kind, whose scores these are."""
    return Scorer({kind: scores[kind][..., None] for kind in SCORES}, 1, norms)


def test_stages_and_what_they_skip() -> None:
    scores = CandidateScores(
        np.array([[0.0, -5.0, -1.0, -2.0, -9.0]]),
        np.array([[5.0, -1.0, 1.0, 1.0, 5.0]]),
        np.array([[0.0, 0.0, 0.3, 0.1, 0.0]]),
    )
    scorer = scorer_of(scores, np.array([[0.0, 1.0, 1.0, 1.0, 1.0]]))
    found = search(scorer.table, scorer.norms, Rules(PAPER_THRESHOLDS), scorer.run)
    assert scorer.done == [  # induce scores of a layer, KL scores of what induces, bypass scores of what is left
        ("induce", ((-1, 1),)),
        ("induce", ((-1, 2),)),
        ("induce", ((-1, 3),)),
        ("kl", ((-1, 2), (-1, 3))),
        ("bypass", ((-1, 3),)),
    ]
    assert survivors(found) == [Candidate(-1, 3, -2.0, 1.0, 0.1)]
    np.testing.assert_array_equal(scorer.table.means().bypass, [[math.nan, math.nan, math.nan, -2.0, math.nan]])


def test_bypass_scores_come_in_rounds_and_candidates_share_passes() -> None:
    shape = (4, 10)
    scores = CandidateScores(np.arange(40.0).reshape(shape) / 40, np.ones(shape), np.zeros(shape) + 0.05)
    scorer = scorer_of(scores, np.ones(shape))
    thresholds = Thresholds(prune_layers=None)
    sizes: dict[str, list[list[int]]] = {kind: [] for kind in STAGES}
    bars = []
    while (work := next_work("staged", scorer.table, thresholds, scorer.norms)) is not None:
        sizes[work.kind].append([len(task.places) for task in work.tasks])
        if work.kind == "bypass":
            assert work.proven_out is not None
            bars.append((work.proven_out(4 / 40, 8), work.proven_out(4.1 / 40, 8)))
        scorer.run(work)
    assert sizes["induce"] == [[4] * 10] and sizes["kl"] == [[SHARED] * 5]
    assert sizes["bypass"] == [[SHARED] * 2, [SHARED] * 2, [SHARED]] and ROUND == 2 * SHARED
    assert bars == [(False, False), (False, True), (False, True)]  # above the fifth best of earlier rounds: out


def test_nan_asks_nothing_more() -> None:
    scorer = scorer_of(
        CandidateScores(np.zeros((1, 4)), np.array([[1.0, math.nan, 1.0, 1.0]]), np.array([[math.nan, 0, 0, 0]])),
        np.ones((1, 4)),
    )
    thresholds = Thresholds(prune_layers=None)
    search(scorer.table, scorer.norms, Rules(thresholds), scorer.run)
    assert [places for kind, places in scorer.done if kind == "kl"] == [((-1, 0), (-1, 2), (-1, 3))]
    assert [places for kind, places in scorer.done if kind == "bypass"] == [((-1, 2), (-1, 3))]


def test_chosen_by_hand_only_that_candidate_is_scored() -> None:
    scorer = scorer_of(CandidateScores(*np.ones((3, 2, 5))), np.ones((2, 5)))
    found = search(scorer.table, scorer.norms, Rules(PAPER_THRESHOLDS, by_hand=(-2, 4)), scorer.run)
    assert scorer.done == [(kind, ((-2, 4),)) for kind in STAGES]
    assert not isinstance(found, NoCandidateError) and (found.place, found.fails) == ((-2, 4), ("pruned_layer", "kl"))


def test_proof_needs_more_than_a_tie() -> None:
    thresholds = Thresholds()
    assert proven_out("induce", -5, -1e-3, thresholds) == "induce"
    assert proven_out("induce", -5, 0.0, thresholds) is None
    assert proven_out("induce", -5, -1e-9, thresholds) is None
    assert proven_out("kl", 0.11, 9, thresholds) == "kl" and proven_out("kl", 0.1, 9, thresholds) is None
    assert proven_out("bypass", -2.9, 9, thresholds, bar=-3.0) == "beaten"
    assert proven_out("bypass", -3.0, 9, thresholds, bar=-3.0) is None
    assert proven_out("bypass", -2.9, 9, thresholds) is None
    assert proven_out("induce", math.nan, math.nan, thresholds) is None
    off = Thresholds(kl=None, induce=None)
    assert proven_out("induce", -5, -4, off) is None and proven_out("kl", 5, 6, off) is None


def test_bar_counts_only_candidates_that_pass() -> None:
    scores = CandidateScores(
        np.array([[-9.0, -4.0, -3.0, math.nan]]), np.array([[-1.0, 1.0, 1.0, 1.0]]), np.full((1, 4), 0.05)
    )
    thresholds, norms = Thresholds(prune_layers=None), np.ones((1, 4))
    assert bypass_bar(scores, thresholds, norms) == -4.0
    assert bypass_bar(scores, thresholds, norms, keep=2) == -3.0
    assert bypass_bar(scores, thresholds, norms, keep=3) == math.inf


@pytest.mark.parametrize("model", ["gemma-2b-it", "qwen-1_8b-chat"])
def test_published_tables_need_few_bypass_scores(model: str) -> None:
    path = SHARED_FOLDER / "reference_runs" / model / "select_direction" / "direction_evaluations.json"
    if not path.is_file():
        pytest.skip(f"the authors' published numbers are not at {path}")
    scores = from_rows(json.loads(path.read_text()))
    scorer = scorer_of(scores, np.where(zero_norm(scores), 0.0, 1.0))
    found = search(scorer.table, scorer.norms, Rules(PAPER_THRESHOLDS), scorer.run)
    assert survivors(found) == survivors(exhaustive(scores, PAPER_THRESHOLDS, None))
    assert scorer.table.done["bypass"].mean() < 0.16
