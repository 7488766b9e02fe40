import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refusal_lightning.directions.analysis import separability as separability_module
from refusal_lightning.directions.analysis.bootstrap import bootstrap_weights
from refusal_lightning.directions.analysis.separability import auroc, projected, separability


def pairwise(harmful: np.ndarray, harmless: np.ndarray) -> float:
    above = harmful[:, None] > harmless[None]
    return float(np.mean(above + 0.5 * (harmful[:, None] == harmless[None])))


VALUES = st.lists(st.sampled_from([-1.0, 0.0, 0.5, 0.5000001, 2.0]), min_size=1, max_size=9)


@settings(max_examples=100, deadline=None)
@given(VALUES, VALUES, st.integers(0, 2**32 - 1))
def test_auroc_equals_all_pairs_also_when_resampled(a: list[float], b: list[float], seed: int) -> None:
    harmful, harmless = np.array(a), np.array(b)
    assert auroc(harmful, harmless)[0] == pytest.approx(pairwise(harmful, harmless))
    rng = np.random.default_rng(seed)
    w, v = bootstrap_weights(len(a), 4, rng), bootstrap_weights(len(b), 4, rng)
    expected = [
        pairwise(np.repeat(harmful, i.astype(int)), np.repeat(harmless, j.astype(int)))
        for i, j in zip(w, v, strict=True)
    ]
    np.testing.assert_allclose(auroc(harmful, harmless, w, v), expected)


def test_resamples_a_few_at_a_time_give_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    harmful, harmless = rng.normal(size=70).round(1), rng.normal(size=60).round(1)
    weights = bootstrap_weights(70, 50, rng), bootstrap_weights(60, 50, rng)
    together = auroc(harmful, harmless, *weights)
    monkeypatch.setattr(separability_module, "AT_ONCE", 7 * 130)
    np.testing.assert_array_equal(auroc(harmful, harmless, *weights), together)


def test_auroc_extremes() -> None:
    assert auroc(np.array([2.0, 3]), np.array([0.0, 1]))[0] == 1
    assert auroc(np.array([0.0, 1]), np.array([2.0, 3]))[0] == 0
    assert auroc(np.ones(3), np.ones(4))[0] == 0.5
    assert np.isnan(auroc(np.array([0.0, np.nan]), np.ones(4))[0])


def test_every_layer_and_position_with_intervals() -> None:
    rng = np.random.default_rng(0)
    direction = np.array([3.0, 0, 0, 0])
    layers = []
    for strength in (0.0, 1.0, 8.0):
        harmful, harmless = rng.normal(size=(60, 2, 4)), rng.normal(size=(50, 2, 4))
        harmful[:, 1, 0] += strength
        directions = np.stack([np.zeros(4), direction])
        layers.append((projected(harmful.astype(np.float32), directions), projected(harmless, directions)))
    found = separability(iter(layers), np.random.default_rng(1), n_resamples=400)
    assert found.auroc.shape == (2, 3)
    assert np.isnan(found.auroc[0]).all() and np.isnan(found.low[0]).all()
    assert found.auroc[1, 2] == found.low[1, 2] == found.high[1, 2] == 1
    assert found.low[1, 0] < 0.5 < found.high[1, 0] and 0.65 < found.auroc[1, 1] < 0.9
    assert (found.low <= found.auroc)[1].all() and (found.auroc <= found.high)[1].all()
    # the usual large-sample width: about 2 * 1.96 * sqrt((n + m + 1) / (12 n m))
    assert found.high[1, 0] - found.low[1, 0] == pytest.approx(0.22, abs=0.05)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_direction_that_is_not_finite_is_nan(value: float) -> None:
    values = projected(np.ones((3, 1, 2)), np.array([[value, 1.0]]))
    assert np.isnan(separability([(values, values)], np.random.default_rng(0), 10).auroc).all()
