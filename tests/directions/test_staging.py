import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refusal_lightning.directions.selection.bounds import PartialMean
from refusal_lightning.directions.selection.candidates import Candidate, CandidateScores, from_rows
from refusal_lightning.directions.selection.choose import NoCandidateError, select
from refusal_lightning.directions.selection.filters import PAPER_THRESHOLDS, Thresholds, dropped_by, zero_norm
from refusal_lightning.directions.selection.schedule import (
    FIELDS,
    STAGES,
    Place,
    ScoreKind,
    bypass_bar,
    empty_scores,
    next_scores,
    proven_out,
    staged_scores,
)

SHARED = Path(__file__).parents[2].parent / "shared"
VALUES = st.sampled_from([-3.0, -1.0, 0.0, 0.05, 0.1, 0.2, 1.0, math.nan])
THRESHOLDS = st.builds(
    Thresholds,
    kl=st.sampled_from([0.1, 0.0, None]),
    induce=st.sampled_from([0.0, -2.0, None]),
    prune_layers=st.sampled_from([0.2, 0.5, None]),
)


@st.composite
def tables(draw: st.DrawFn) -> tuple[CandidateScores, np.ndarray]:
    shape = (draw(st.integers(1, 3)), draw(st.integers(1, 6)))
    cells = shape[0] * shape[1]
    values = draw(st.lists(VALUES, min_size=3 * cells, max_size=3 * cells))
    norms = draw(st.lists(st.sampled_from([0.0, 1.0, 2.0]), min_size=cells, max_size=cells))
    return CandidateScores(*np.array(values).reshape(3, *shape)), np.array(norms).reshape(shape)


def lookup(scores: CandidateScores) -> Callable[[ScoreKind, list[Place]], list[float]]:
    return lambda kind, places: [float(getattr(scores, FIELDS[kind])[place]) for place in places]


def chosen(
    scores: CandidateScores, thresholds: Thresholds, norms: np.ndarray | None, **more: dict[Place, str]
) -> list[Candidate] | None:
    try:
        return list(select(scores, thresholds, norms, **more).survivors)
    except NoCandidateError:
        return None


@settings(max_examples=200, deadline=None)
@given(tables(), THRESHOLDS)
def test_staged_equals_exhaustive(table: tuple[CandidateScores, np.ndarray], thresholds: Thresholds) -> None:
    scores, norms = table
    run = staged_scores(lookup(scores), thresholds, norms)
    assert chosen(run.scores, thresholds, norms) == chosen(scores, thresholds, norms)
    assert dropped_by(run.scores, thresholds, norms) == dropped_by(scores, thresholds, norms)
    assert run.evaluations["induce"] >= run.evaluations["kl"] >= run.evaluations["bypass"]


@settings(max_examples=100, deadline=None)
@given(tables(), THRESHOLDS, st.data())
def test_continues_from_any_interruption(
    table: tuple[CandidateScores, np.ndarray], thresholds: Thresholds, data: st.DataObject
) -> None:
    """Scores come in one at a time, in any order, some from an earlier run that needed others."""
    scores, norms = table
    have, done = empty_scores(scores.shape), {kind: np.zeros(scores.shape, dtype=bool) for kind in STAGES}
    for kind, cell in data.draw(st.lists(st.tuples(st.sampled_from(STAGES), st.integers(0, 17)), max_size=12)):
        place = np.unravel_index(cell % norms.size, norms.shape)
        getattr(have, FIELDS[kind])[place] = getattr(scores, FIELDS[kind])[place]
        done[kind][place] = True
    while (step := next_scores(have, done, thresholds, norms)) is not None:
        kind, places = step
        place = data.draw(st.sampled_from(places))
        getattr(have, FIELDS[kind])[place] = getattr(scores, FIELDS[kind])[place]
        done[kind][place] = True
    assert chosen(have, thresholds, norms) == chosen(scores, thresholds, norms)


@settings(max_examples=150, deadline=None)
@given(tables(), THRESHOLDS, st.integers(0, 2**32 - 1), st.integers(1, 3))
def test_early_stopping_keeps_the_best(
    table: tuple[CandidateScores, np.ndarray], thresholds: Thresholds, seed: int, keep: int
) -> None:
    """Per-prompt scores around each mean; candidates in random order, dropped as soon as proven out."""
    means, norms = table
    rng = np.random.default_rng(seed)
    n, bound = 6, 8.0
    noise = rng.uniform(-4, 4, size=(3, *means.shape, n))
    noise -= noise.mean(-1, keepdims=True) * rng.integers(0, 2, size=(3, *means.shape, 1))
    prompts = {kind: np.round(getattr(means, FIELDS[kind])[..., None] + noise[i], 1) for i, kind in enumerate(STAGES)}
    exact = CandidateScores(*(prompts[kind].mean(-1) for kind in ("bypass", "induce", "kl")))
    have, done = empty_scores(means.shape), {kind: np.zeros(means.shape, dtype=bool) for kind in STAGES}
    ruled_out: dict[Place, str] = {}
    for _ in range(3 * norms.size + 1):
        if (step := next_scores(have, done, thresholds, norms, ruled_out)) is None:
            break
        kind, places = step
        place = places[rng.integers(len(places))]
        partial = PartialMean(np.full(n, -bound), np.full(n, math.inf if kind == "kl" else bound))
        bar = bypass_bar(have, thresholds, norms, keep)
        while not partial.complete and place not in ruled_out:
            partial.add([partial.n_seen], prompts[kind][place][[partial.n_seen]])
            if reason := proven_out(kind, partial.low, partial.high, thresholds, bar):
                ruled_out[place] = reason
        if place not in ruled_out:
            getattr(have, FIELDS[kind])[place] = partial.low
            done[kind][place] = True
    else:
        pytest.fail("a candidate was asked for twice")
    expected = chosen(exact, thresholds, norms)
    found = chosen(have, thresholds, norms, ruled_out=ruled_out)
    assert (found and found[:keep]) == (expected and expected[:keep])


def test_stages_and_what_they_skip() -> None:
    nan = math.nan
    scores = CandidateScores(
        np.array([[0.0, -5.0, -1.0, -2.0, -9.0]]),
        np.array([[5.0, -1.0, 1.0, 1.0, 5.0]]),
        np.array([[0.0, 0.0, 0.3, 0.1, 0.0]]),
    )
    norms = np.array([[0.0, 1.0, 1.0, 1.0, 1.0]])
    asked: list[tuple[ScoreKind, list[Place]]] = []

    def score(kind: ScoreKind, places: list[Place]) -> list[float]:
        asked.append((kind, places))
        return lookup(scores)(kind, places)

    run = staged_scores(score, PAPER_THRESHOLDS, norms)
    assert asked == [
        ("induce", [(-1, 1), (-1, 2), (-1, 3)]),
        ("kl", [(-1, 2), (-1, 3)]),
        ("bypass", [(-1, 3)]),
    ]
    np.testing.assert_array_equal(run.scores.refusal_score, [[nan, nan, nan, -2.0, nan]])
    assert run.evaluations == {"induce": 3, "kl": 2, "bypass": 1} and run.share("bypass") == 0.2
    assert run.summary() == "scores needed, of 5 candidates: induce 3 (60%), kl 2 (40%), bypass 1 (20%)"


def test_nan_and_ruled_out_candidates_are_asked_nothing_more() -> None:
    have, norms = empty_scores((1, 4)), np.ones((1, 4))
    done = {kind: np.zeros((1, 4), dtype=bool) for kind in STAGES}
    done["induce"][:] = True
    have.steering_score[0] = [1.0, math.nan, 1.0, 1.0]
    thresholds = Thresholds(prune_layers=None)
    assert next_scores(have, done, thresholds, norms) == ("kl", [(-1, 0), (-1, 2), (-1, 3)])
    assert next_scores(have, done, thresholds, norms, {(-1, 2): "kl"}) == ("kl", [(-1, 0), (-1, 3)])
    have.kl_div_score[0], done["kl"][:] = [math.nan, 0.0, 0.0, 0.0], True
    assert next_scores(have, done, thresholds, norms) == ("bypass", [(-1, 2), (-1, 3)])
    assert next_scores(have, done, thresholds, norms, [(-1, 2), (-1, 3)]) is None


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
    path = SHARED / "reference_runs" / model / "select_direction" / "direction_evaluations.json"
    if not path.is_file():
        pytest.skip(f"the authors' published numbers are not at {path}")
    scores = from_rows(json.loads(path.read_text()))
    norms = np.where(zero_norm(scores), 0.0, 1.0)
    run = staged_scores(lookup(scores), PAPER_THRESHOLDS, norms)
    assert chosen(run.scores, PAPER_THRESHOLDS, norms) == chosen(scores, PAPER_THRESHOLDS, None)
    assert run.share("bypass") < 0.16
