import math

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from refusal_lightning.directions.metrics.kl import kl_scores
from refusal_lightning.directions.metrics.refusal_score import refusal_scores
from refusal_lightning.directions.selection.bounds import (
    PartialMean,
    kl_lower_bounds,
    refusal_score_bound,
)

EPSILONS = st.sampled_from([1e-8, 1e-6, 1e-3, 0.1])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(-500, 500), min_size=3, max_size=9), EPSILONS)
def test_refusal_scores_stay_within_their_bound(logits: list[float], epsilon: float) -> None:
    score = refusal_scores(torch.tensor([logits], dtype=torch.float64), [0, 2], epsilon).abs().item()
    assert score <= refusal_score_bound(epsilon)


def test_refusal_score_bound_is_tight() -> None:
    certain = refusal_scores(torch.tensor([[900.0, 0.0]]), [0]).item()
    assert 0 <= refusal_score_bound() - certain < 1e-3
    assert 18.42 < refusal_score_bound() < 18.43


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 300), st.sampled_from([0.0, 0.1, 1.0, 10.0, 100.0]), EPSILONS)
def test_kl_never_falls_below_its_bounds(seed: int, vocab: int, sharpness: float, epsilon: float) -> None:
    rng = np.random.default_rng(seed)
    baseline = torch.from_numpy(rng.normal(size=(4, vocab)) * sharpness)
    bounds = kl_lower_bounds(baseline, epsilon)
    assert bounds.min().item() >= lowest_for_a_vocabulary(vocab, epsilon) - 1e-12
    others = [baseline * factor for factor in (0.0, 0.5, 1.0, 1.01, 1.5, 4.0)]
    others += [torch.from_numpy(rng.normal(size=(4, vocab)) * scale) for scale in (0.1, 1.0, 30.0)]
    others += [best_response(baseline, epsilon)]
    for other in others:
        assert (kl_scores(baseline, other, epsilon) >= bounds).all()


def lowest_for_a_vocabulary(vocab: int, epsilon: float) -> float:
    """What no baseline's bound is below: max p / (p + e) is at most 1 / (1 + e), and the sum of p / (p + e), concave in
    p, is largest for the uniform distribution."""
    return -math.log(1 / (1 + epsilon) + epsilon * vocab / (1 + epsilon * vocab)) - 1e-9


def best_response(baseline: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Logits of the q that makes the KL score smallest: q + e = max(e, c p) with c such that q sums to 1."""
    p = baseline.softmax(-1)
    low, high = torch.ones(len(p), 1).double(), torch.full((len(p), 1), 2.0 + p.shape[1] * epsilon).double()
    for _ in range(100):
        c = (low + high) / 2
        over = (c * p - epsilon).clamp(min=0).sum(-1, keepdim=True) > 1
        low, high = torch.where(over, low, c), torch.where(over, c, high)
    return (low * p - epsilon).clamp(min=0).log()


def test_the_kl_score_does_go_below_zero_and_the_bound_is_near() -> None:
    baseline = torch.zeros(1, 1000, dtype=torch.float64)
    baseline[0, :10] = 6.0
    lowest = kl_scores(baseline, best_response(baseline, 1e-3), 1e-3).item()
    bound = kl_lower_bounds(baseline, 1e-3).item()
    assert -0.5 < bound <= lowest < -0.05


def test_bound_is_almost_zero_for_a_peaked_baseline() -> None:
    baseline = torch.linspace(0, -200, 50_000)[None]
    assert -1e-2 < kl_lower_bounds(baseline).item() < 0
    assert math.isclose(lowest_for_a_vocabulary(256_000, 1e-6), -0.186, abs_tol=1e-3)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_partial_mean_always_holds_the_mean(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 12))
    scores = np.array(data.draw(st.lists(st.floats(-18, 18), min_size=n, max_size=n)))
    order = data.draw(st.permutations(range(n)))
    partial = PartialMean(np.full(n, -18.0), np.full(n, 18.0))
    for step, prompt in enumerate(order):
        assert partial.n_seen == step and not partial.complete
        assert partial.low <= scores.mean() + 1e-12 and scores.mean() - 1e-12 <= partial.high
        width = partial.high - partial.low
        partial.add([prompt], scores[[prompt]])
        assert partial.high - partial.low <= width
    assert partial.complete and partial.low == partial.high == scores.mean()


def test_partial_mean_with_unknown_bound_or_nan() -> None:
    partial = PartialMean(np.zeros(2), np.full(2, math.inf))
    partial.add([0], np.array([3.0]))
    assert partial.low == 1.5 and partial.high == math.inf
    partial.add([1], np.array([math.nan]))
    assert math.isnan(partial.low) and math.isnan(partial.high)
