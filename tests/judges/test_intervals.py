"""Intervals: known values, symmetry, and that they cover the truth as often as they say."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refusal_lightning.judges.intervals import bootstrap_mean, newcombe_paired, wilson


@pytest.mark.parametrize(
    ("successes", "total", "interval"),
    [  # the roots of (p - k/n)^2 = z^2 p (1 - p) / n, with z = 1.959964
        (0, 10, (0.0, 0.277533)),
        (10, 10, (0.722467, 1.0)),
        (5, 10, (0.236593, 0.763407)),
        (1, 100, (0.001767, 0.054486)),
        (0, 0, (0.0, 1.0)),
    ],
)
def test_wilson(successes, total, interval):
    assert wilson(successes, total) == pytest.approx(interval, abs=1e-6)


@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_solves_its_equation(case):
    k, n = case
    low, high = wilson(k, n)
    assert 0 <= low <= k / n <= high <= 1
    for p in (low, high):
        if 0 < p < 1:
            assert (p - k / n) ** 2 == pytest.approx(1.959963985**2 * p * (1 - p) / n, rel=1e-6, abs=1e-12)
    assert wilson(n - k, n) == pytest.approx((1 - high, 1 - low))


def test_bootstrap_is_that_of_the_mean_and_repeats_itself():
    values = np.random.default_rng(1).normal(0.4, 0.2, size=200).tolist()
    low, high = bootstrap_mean(values)
    half = 1.96 * np.std(values) / np.sqrt(len(values))
    assert (low, high) == pytest.approx((np.mean(values) - half, np.mean(values) + half), abs=0.005)
    assert bootstrap_mean(values) == (low, high)
    assert bootstrap_mean([0.3]) == (0.3, 0.3)
    with pytest.raises(ValueError, match="no rows"):
        bootstrap_mean([])


_counts = st.tuples(*[st.integers(0, 60)] * 4)


@given(_counts)
def test_newcombe_holds_the_difference_and_turns_with_it(counts):
    a, b, c, d = counts
    low, high = newcombe_paired(a, b, c, d)
    n = sum(counts)
    if n:
        assert -1 <= low <= (c - b) / n + 1e-12
        assert (c - b) / n - 1e-12 <= high <= 1
    assert newcombe_paired(a, c, b, d) == pytest.approx((-high, -low))
    assert newcombe_paired(d, b, c, a) == pytest.approx((low, high)), "refusals differ as compliance does, turned"


@pytest.mark.parametrize("shares", [(0.5, 0.1, 0.2, 0.2), (0.02, 0.02, 0.9, 0.06), (0.1, 0.0, 0.05, 0.85)])
def test_newcombe_covers(shares):
    """Of 4,000 draws of 60 prompts, the interval holds the true difference in about 95 %."""
    truth = shares[2] - shares[1]
    draws = np.random.default_rng(0).multinomial(60, shares, size=4000)
    distinct, times = np.unique(draws, axis=0, return_counts=True)
    held = [low <= truth <= high for low, high in (newcombe_paired(*map(int, draw)) for draw in distinct)]
    assert 0.93 <= np.average(held, weights=times) <= 0.995


def test_newcombe_ends():
    assert newcombe_paired(0, 0, 0, 0) == (-1.0, 1.0)
    low, high = newcombe_paired(0, 0, 100, 0)
    assert 0.9 < low < 1.0 == high
    low, high = newcombe_paired(50, 0, 0, 50)
    assert low == pytest.approx(-high)
    assert high < 0.1, "the same verdict on every prompt leaves little room for a difference"
