import numpy as np
import pytest

from refusal_lightning.directions.analysis.bootstrap import bootstrap_weights
from refusal_lightning.directions.analysis.stability import (
    bootstrap_cosines,
    cosines_by_n_train,
    doubling_sizes,
    split_cosines_by_n_train,
)
from refusal_lightning.directions.estimators.mean_difference import mean_difference
from refusal_lightning.directions.vectors import unit
from refusal_lightning.errors import UserError


def classes(strength: float, n: int = 40, m: int = 36, d_model: int = 50) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    common = 1000 * rng.normal(size=(2, d_model))
    harmful = common + rng.normal(size=(n, 2, d_model)) + strength * unit(rng.normal(size=(2, d_model)))
    return harmful, common + rng.normal(size=(m, 2, d_model))


def test_bootstrap_equals_estimating_again() -> None:
    harmful, harmless = classes(3.0)
    cosines = bootstrap_cosines(harmful, harmless, np.random.default_rng(4), n_resamples=6)
    rng = np.random.default_rng(4)
    weights = zip(bootstrap_weights(40, 6, rng), bootstrap_weights(36, 6, rng), strict=True)
    full = unit(mean_difference(harmful, harmless))
    for row, (w, v) in zip(cosines, weights, strict=True):
        drawn = mean_difference(np.repeat(harmful, w.astype(int), axis=0), np.repeat(harmless, v.astype(int), axis=0))
        np.testing.assert_allclose(row, np.sum(unit(drawn) * full, axis=-1), atol=1e-9)


def test_more_prompts_and_a_stronger_signal_are_more_stable() -> None:
    harmful, harmless = classes(3.0)
    cosines = cosines_by_n_train(harmful, harmless, [2, 8, 36], np.random.default_rng(0), n_draws=60)
    assert cosines.shape == (3, 60, 2)
    means = cosines.mean(axis=1)
    assert (np.diff(means, axis=0) > 0.02).all()
    weak = cosines_by_n_train(*classes(0.5), [8], np.random.default_rng(0), n_draws=60)
    assert (weak.mean(axis=1) < means[1]).all()
    exact = cosines_by_n_train(harmful[:36], harmless, [36], np.random.default_rng(0), n_draws=3)
    np.testing.assert_allclose(exact, 1)


def test_split_draws_are_disjoint() -> None:
    # one prompt carries everything: two disjoint draws can never agree on it
    harmful, harmless = np.zeros((4, 1, 8)), np.zeros((4, 1, 8))
    harmful[np.arange(4), 0, np.arange(4)] = 1
    harmless[np.arange(4), 0, 4 + np.arange(4)] = 1
    cosines = split_cosines_by_n_train(harmful, harmless, [1, 2], np.random.default_rng(0), n_draws=20)
    np.testing.assert_allclose(cosines, 0, atol=1e-12)


def test_split_cosine_is_about_the_square_of_the_cosine_with_the_truth() -> None:
    rng = np.random.default_rng(0)
    truth = unit(rng.normal(size=200))
    harmful, harmless = rng.normal(size=(400, 1, 200)) + 3 * truth, rng.normal(size=(400, 1, 200))
    split = split_cosines_by_n_train(harmful, harmless, [40], np.random.default_rng(0), n_draws=100).mean()
    drawn = mean_difference(harmful[:40], harmless[:40])[0]
    assert np.sqrt(split) == pytest.approx(unit(drawn) @ truth, abs=0.06)


def test_no_signal_at_all_is_nan() -> None:
    same = np.full((3, 1, 4), 0.7)
    assert np.isnan(bootstrap_cosines(same, same, np.random.default_rng(0), 5)).all()


@pytest.mark.parametrize("size", [0, 5, -1])
def test_sizes_out_of_range_are_refused(size: int) -> None:
    harmful, harmless = np.ones((4, 1, 2)), np.ones((9, 1, 2))
    with pytest.raises(UserError, match="1 to 4"):
        cosines_by_n_train(harmful, harmless, [2, size], np.random.default_rng(0))
    with pytest.raises(UserError, match="1 to 2"):
        split_cosines_by_n_train(harmful, harmless, [3], np.random.default_rng(0))


def test_doubling_sizes() -> None:
    assert [doubling_sizes(n) for n in range(6)] == [[], [1], [1, 2], [1, 2, 3], [1, 2, 4], [1, 2, 4, 5]]
    assert doubling_sizes(64)[-2:] == [32, 64]
    assert doubling_sizes(65)[-2:] == [64, 65]
