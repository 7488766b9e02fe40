from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refusal_lightning.directions.estimators.lda import lda, ledoit_wolf_shrinkage
from refusal_lightning.directions.estimators.logistic_probe import logistic_probe
from refusal_lightning.directions.estimators.mean_difference import mean_difference
from refusal_lightning.directions.estimators.principal_component import principal_component
from refusal_lightning.directions.estimators.registry import ESTIMATORS
from refusal_lightning.directions.estimators.spec import EstimatorSpec
from refusal_lightning.directions.vectors import unit

OF_ROWS = [name for name, spec in ESTIMATORS.items() if spec.of_rows is not None]


def estimate(name: str, harmful: np.ndarray, harmless: np.ndarray) -> np.ndarray:
    of_rows = ESTIMATORS[name].of_rows
    assert of_rows is not None
    return of_rows(harmful, harmless)


def planted(
    seed: int, n: int = 150, m: int = 120, d_model: int = 24, strength: float = 6.0, scale: float = 1.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two classes around an offset, apart along one unit direction per position (2), with isotropic noise."""
    rng = np.random.default_rng(seed)
    direction = unit(rng.normal(size=(2, d_model)))
    offset = 5 * rng.normal(size=(2, d_model))
    harmful = offset + strength * direction + rng.normal(size=(n, 2, d_model))
    harmless = offset + rng.normal(size=(m, 2, d_model))
    return (scale * harmful).astype(np.float32), (scale * harmless).astype(np.float32), direction


@pytest.mark.parametrize("name", OF_ROWS)
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), scale=st.sampled_from([0.01, 1.0, 300.0]))
def test_recovers_a_planted_direction(name: str, seed: int, scale: float) -> None:
    harmful, harmless, direction = planted(seed, scale=scale)
    found = estimate(name, harmful, harmless)
    assert found.shape == direction.shape and found.dtype == np.float64
    assert np.sum(unit(found) * direction, axis=-1).min() > 0.9
    opposite = estimate(name, harmless, harmful)
    np.testing.assert_allclose(opposite, -found, atol=1e-5 * float(np.linalg.norm(found)))


@pytest.mark.parametrize("name", OF_ROWS)
def test_recovers_it_with_more_dimensions_than_prompts(name: str) -> None:
    harmful, harmless, direction = planted(1, n=20, m=30, d_model=400, strength=25.0)
    assert np.sum(unit(estimate(name, harmful, harmless)) * direction, axis=-1).min() > 0.93


@pytest.mark.parametrize("name", sorted(set(OF_ROWS) - {"unit_mean_difference"}))
def test_norm_is_that_of_the_mean_difference_and_zero_stays_zero(name: str) -> None:
    harmful, harmless, _ = planted(2)
    norms = np.linalg.norm(mean_difference(harmful, harmless), axis=-1)
    np.testing.assert_allclose(np.linalg.norm(estimate(name, harmful, harmless), axis=-1), norms)
    same = np.repeat(harmful[:1], 5, axis=0)
    assert not estimate(name, same, same[:3]).any()


@pytest.mark.parametrize("name", OF_ROWS)
def test_nan_at_a_position_stays_there(name: str) -> None:
    harmful, harmless, _ = planted(9, n=10, m=12)
    expected = estimate(name, harmful, harmless)[1]
    harmful[3, 0, 5] = np.nan
    found = estimate(name, harmful, harmless)
    assert np.isnan(found[0]).any()
    np.testing.assert_array_equal(found[1], expected)


@pytest.mark.parametrize("name", ["logistic_probe", "lda"])
def test_whitening_estimators_see_past_a_loud_nuisance(name: str) -> None:
    rng = np.random.default_rng(0)
    harmful, harmless, direction = planted(3, n=200, m=200, strength=3.0)
    nuisance = unit(rng.normal(size=(2, 24)))
    nuisance -= np.sum(nuisance * direction, axis=-1, keepdims=True) * direction
    for x in (harmful, harmless):
        x += 20 * rng.normal(size=(200, 2, 1)) * nuisance
    cosine = np.sum(unit(estimate(name, harmful, harmless)) * direction, axis=-1)
    plain = np.sum(unit(mean_difference(harmful, harmless)) * direction, axis=-1)
    assert (cosine > 0.9).all() and (cosine > plain + 0.05).any()


def test_principal_component_is_that_of_all_pairs() -> None:
    harmful, harmless, _ = planted(4, n=6, m=5, d_model=7, strength=1.0)
    pairs = (harmful[:, None, 1].astype(float) - harmless[None, :, 1]).reshape(-1, 7)
    top = np.linalg.svd(pairs)[2][0]
    assert abs(top @ unit(principal_component(harmful, harmless)[1])) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("d_model", [5, 40])
def test_lda_equals_the_dense_solve(d_model: int) -> None:
    harmful, harmless, _ = planted(5, n=12, m=9, d_model=d_model)
    h, s = harmful[:, 0].astype(float), harmless[:, 0].astype(float)
    centred = np.concatenate([h - h.mean(0), s - s.mean(0)])
    covariance = centred.T @ centred / 21
    for a in (0.3, ledoit_wolf_shrinkage(centred @ centred.T, d_model)):
        shrunk = (1 - a) * covariance + a * np.trace(covariance) / d_model * np.eye(d_model)
        expected = unit(np.linalg.solve(shrunk, h.mean(0) - s.mean(0)))
        np.testing.assert_allclose(unit(lda(harmful, harmless, shrinkage=a)[0]), expected, atol=1e-9)
    np.testing.assert_allclose(unit(lda(harmful, harmless)[0]), expected, atol=1e-9)


def test_lda_shrinkage_limits() -> None:
    harmful, harmless, _ = planted(6)
    np.testing.assert_allclose(lda(harmful, harmless, shrinkage=1), mean_difference(harmful, harmless))
    with pytest.raises(ValueError, match="shrinkage"):
        lda(harmful, harmless, shrinkage=0)


def test_ledoit_wolf_equals_the_paper_written_out() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(15, 6)) * np.arange(1, 7)
    s = x.T @ x / 15
    m = np.trace(s) / 6
    d2 = np.sum((s - m * np.eye(6)) ** 2) / 6
    b2 = min(d2, sum(np.sum((np.outer(row, row) - s) ** 2) / 6 for row in x) / 15**2)
    assert ledoit_wolf_shrinkage(x @ x.T, 6) == pytest.approx(b2 / d2)


@pytest.mark.parametrize("d_model", [4, 60])
def test_logistic_probe_is_at_the_minimum_of_its_loss(d_model: int) -> None:
    harmful, harmless, _ = planted(7, n=25, m=20, d_model=d_model, strength=1.0)
    rows = np.concatenate([harmful[:, 0], harmless[:, 0]]).astype(float)
    rows -= rows.mean(0)
    rows /= np.sqrt(np.mean(rows**2))
    labels = np.repeat([1.0, 0.0], [25, 20])
    w, b = np.zeros(d_model), 0.0
    for _ in range(20000):  # plain gradient descent as the oracle
        error = 1 / (1 + np.exp(-(rows @ w + b))) - labels
        w, b = w - 0.01 * (rows.T @ error + w), b - 0.01 * error.sum()
    np.testing.assert_allclose(unit(logistic_probe(harmful, harmless)[0]), unit(w), atol=1e-6)


def test_logistic_probe_tends_to_the_mean_difference_with_strong_l2() -> None:
    harmful, harmless, _ = planted(8, n=30, m=30)
    weights = unit(logistic_probe(harmful, harmless, l2=1e8))
    np.testing.assert_allclose(weights, unit(mean_difference(harmful, harmless)), atol=1e-5)


class Means:
    """Class means of activations ``[prompt, layer, position, d_model]`` whose categories are known."""

    def __init__(self, harmful: np.ndarray, harmless: np.ndarray, categories: list[str]) -> None:
        self._harmful, self._harmless, self._categories = harmful, harmless, np.array(categories)

    def harmful(self) -> np.ndarray:
        return np.asarray(self._harmful.mean(axis=0))

    def harmless(self) -> np.ndarray:
        return np.asarray(self._harmless.mean(axis=0))

    def harmful_by_category(self) -> list[np.ndarray]:
        return [self._harmful[self._categories == c].mean(axis=0) for c in sorted(set(self._categories))]


def test_of_class_means() -> None:
    rng = np.random.default_rng(0)
    harmful, harmless = rng.normal(size=(4, 2, 3, 5)), rng.normal(size=(6, 2, 3, 5))
    means = Means(harmful, harmless, ["a", "b", "b", "b"])
    found = {name: spec.of_means(means) for name, spec in ESTIMATORS.items() if spec.of_means is not None}
    expected = {
        "mean_difference": mean_difference(harmful.reshape(4, 6, 5), harmless.reshape(6, 6, 5)).reshape(2, 3, 5),
        "category_means": (harmful[0] + harmful[1:].mean(axis=0)) / 2 - harmless.mean(axis=0),
    }
    assert found.keys() == expected.keys()
    for name, directions in found.items():
        np.testing.assert_allclose(directions, expected[name], atol=1e-12)


def test_a_spec_says_how_and_once() -> None:
    for how in ({}, {"of_rows": mean_difference, "of_means": Means.harmful}, {"in_passes": print}):
        with pytest.raises(ValueError, match="the estimator 'mine'"):
            EstimatorSpec("mine", **how)


def test_each_is_in_the_documentation() -> None:
    text = (Path(__file__).parents[2] / "docs" / "selection.md").read_text()
    assert all(f"| `{name}` |" in text for name in ESTIMATORS)
