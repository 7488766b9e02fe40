import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refusal_lightning.directions.analysis.bootstrap import bootstrap_weights, percentile_interval
from refusal_lightning.directions.selection import uncertainty as uncertainty_module
from refusal_lightning.directions.selection.candidates import CandidateScores
from refusal_lightning.directions.selection.choose import NoCandidateError, select
from refusal_lightning.directions.selection.filters import Thresholds
from refusal_lightning.directions.selection.uncertainty import PromptScores, uncertainty

SHAPE = (2, 4)
NORMS = np.ones(SHAPE)
OFF = Thresholds(prune_layers=None)


def random_scores(seed: int, n: int = 7, m: int = 6) -> PromptScores:
    rng = np.random.default_rng(seed)
    return PromptScores(
        bypass=rng.normal(size=(*SHAPE, n)),
        induce=rng.normal(0.3, 1, size=(*SHAPE, m)),
        kl=rng.exponential(0.1, size=(*SHAPE, m)),
    )


def test_weights_are_draws_with_replacement() -> None:
    weights = bootstrap_weights(5, 4000, np.random.default_rng(0))
    assert (weights.sum(axis=1) == 5).all() and weights.max() > 2
    np.testing.assert_allclose(weights.mean(axis=0), 1, atol=0.06)


def test_percentile_interval() -> None:
    low, high = percentile_interval(np.arange(101.0), 0.9)
    assert (low, high) == pytest.approx((5, 95))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_equals_choosing_again_in_a_loop(seed: int) -> None:
    scores, thresholds = random_scores(seed), Thresholds(kl=0.12, prune_layers=0.3)
    norms = NORMS.copy()
    norms[:, 0] = 0
    try:
        found = uncertainty(scores, thresholds, norms, np.random.default_rng(seed), n_resamples=40)
    except NoCandidateError:
        with pytest.raises(NoCandidateError):
            select(scores.means(), thresholds, norms)
        return
    rng = np.random.default_rng(seed)
    harmful, harmless = bootstrap_weights(7, 40, rng), bootstrap_weights(6, 40, rng)
    wins, none = np.zeros(SHAPE), 0
    for w, v in zip(harmful, harmless, strict=True):
        drawn = [
            np.repeat(x, k.astype(int), axis=-1) for x, k in ((scores.bypass, w), (scores.induce, v), (scores.kl, v))
        ]
        table = CandidateScores(*(x.mean(axis=-1) for x in drawn))
        try:
            selection = select(table, thresholds, norms)
            wins[selection.position, selection.layer] += 1
        except NoCandidateError:
            none += 1
    np.testing.assert_allclose(found.wins * 40, wins)
    assert found.none * 40 == pytest.approx(none)
    assert found.wins.sum() + found.none == pytest.approx(1) and found.undecided == 0


def test_top_candidates_margin_and_intervals() -> None:
    n = 40
    rng = np.random.default_rng(0)
    noise = rng.normal(size=n)
    noise -= noise.mean()
    bypass = np.zeros((*SHAPE, n)) + 5.0
    bypass[-1, 1], bypass[-1, 2], bypass[-2, 3] = -3 + noise, -2 + noise, -1 - noise
    scores = PromptScores(bypass, np.ones((*SHAPE, n)), np.zeros((*SHAPE, n)) + 0.05)
    found = uncertainty(scores, OFF, NORMS, np.random.default_rng(1))
    assert [(t.candidate.position, t.candidate.layer) for t in found.top[:3]] == [(-1, 1), (-1, 2), (-2, 3)]
    assert found.margin == pytest.approx(1)
    # both share the noise, so their difference has none although each alone has
    np.testing.assert_allclose(found.margin_interval, (1, 1))
    low, high = found.top[0].bypass
    assert high - low == pytest.approx(2 * 1.96 * noise.std() / math.sqrt(n), rel=0.15) and low < -3 < high
    assert found.top[0].induce == pytest.approx((1, 1)) and found.top[0].passes == 1
    assert found.top[0].wins == found.wins[-1, 1] == 1.0 and found.none == 0


def test_same_seed_same_answer_and_a_lone_candidate_has_no_margin() -> None:
    scores = random_scores(3)
    a, b = (uncertainty(scores, OFF, NORMS, np.random.default_rng(5), 50) for _ in range(2))
    np.testing.assert_array_equal(a.wins, b.wins)
    assert a.top == b.top
    single = PromptScores(*(x[:1, :1] for x in (np.zeros((1, 1, 4)), np.ones((1, 1, 4)), np.zeros((1, 1, 4)))))
    alone = uncertainty(single, OFF, np.ones((1, 1)), np.random.default_rng(0), 20)
    assert math.isnan(alone.margin) and math.isnan(alone.margin_interval[0]) and alone.top[0].wins == 1


def test_induce_and_kl_share_each_draw() -> None:
    # candidate passes a rule only if prompt 0 is drawn and the other only if it is not: never both
    induce, kl = np.array([1.0, 0, 0, 0]), np.array([0.2, 0, 0, 0])
    scores = PromptScores(
        np.array([[[-9.0] * 4, [0.0] * 4]]), np.array([[induce, [1.0] * 4]]), np.array([[kl, [0.0] * 4]])
    )
    thresholds = Thresholds(kl=0.04, induce=0.2, prune_layers=None)
    found = uncertainty(scores, thresholds, np.ones((1, 2)), np.random.default_rng(0), 500)
    assert found.wins[0, 0] == 0 and found.wins[0, 1] == 1


def test_a_score_that_was_computed_and_is_nan_decides() -> None:
    full = PromptScores(np.zeros((1, 3, 8)), np.ones((1, 3, 8)), np.zeros((1, 3, 8)))
    full.bypass[0, :, :] = np.array([[-4.0], [-5.0], [-6.0]])
    full.bypass[0, 2, 3] = np.nan
    given = (full, Thresholds(prune_layers=None), np.ones((1, 3)))
    assert uncertainty(*given, np.random.default_rng(0), 100).undecided == 1  # for all one knows, it is missing
    nan = np.array([[False, False, True]])
    found = uncertainty(*given, np.random.default_rng(0), 100, hopeless=nan)
    assert found.undecided == 0 and found.wins.tolist() == [[0, 1, 0]]


def test_staged_tables_say_how_much_is_undecided() -> None:
    full = PromptScores(np.zeros((1, 3, 8)), np.ones((1, 3, 8)), np.zeros((1, 3, 8)))
    full.bypass[0, :, :] = np.array([[-4.0], [-5.0], [-6.0]])
    full.induce[0, 1] = -8.0  # never induces: its missing scores do not matter
    full.induce[0, 2] = np.array([-2.0, 1, 1, 1, -2.0, 1, -1, 0])  # fails by little: it might have won
    for candidate in (1, 2):
        full.kl[0, candidate] = full.bypass[0, candidate] = np.nan
    thresholds, norms = Thresholds(prune_layers=None), np.ones((1, 3))
    found = uncertainty(full, thresholds, norms, np.random.default_rng(0), 500)
    assert found.wins.tolist() == [[1, 0, 0]]
    assert 0.3 < found.undecided < 0.7
    full.kl[0, 2] = 0.3  # known to fail another rule
    assert uncertainty(full, thresholds, norms, np.random.default_rng(0), 500).undecided == 0
    full.kl[0, 2] = 0.0
    full.bypass[0, 2, :6] = 18.0  # partly seen and already beaten
    assert uncertainty(full, thresholds, norms, np.random.default_rng(0), 500).undecided == pytest.approx(0, abs=0.02)


def test_some_resamples_and_candidates_at_a_time_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = random_scores(4)
    scores.bypass[0, 1, 2] = np.nan
    together = uncertainty(scores, OFF, NORMS, np.random.default_rng(2), 50)
    monkeypatch.setattr(uncertainty_module, "AT_ONCE", 7 * 3)
    apart = uncertainty(scores, OFF, NORMS, np.random.default_rng(2), 50)
    np.testing.assert_array_equal(apart.wins, together.wins)
    assert (apart.undecided, apart.none) == (together.undecided, together.none)
    for first, second in zip(apart.top, together.top, strict=True):
        np.testing.assert_allclose(first.bypass + first.induce + first.kl, second.bypass + second.induce + second.kl)
