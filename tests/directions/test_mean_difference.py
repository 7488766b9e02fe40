import numpy as np
import pytest

from refusal_lightning.directions.estimators.mean_difference import mean_difference
from refusal_lightning.directions.estimators.unit_mean_difference import unit_mean_difference
from refusal_lightning.directions.vectors import is_zero, unit

RNG = np.random.default_rng(0)
HARMFUL = RNG.normal(size=(7, 3, 5)).astype(np.float32)
HARMLESS = RNG.normal(size=(6, 3, 5)).astype(np.float32)


def test_difference_of_means_in_float64() -> None:
    difference = mean_difference(HARMFUL, HARMLESS)
    assert difference.dtype == np.float64 and difference.shape == (3, 5)
    expected = HARMFUL.astype(float).mean(0) - HARMLESS.astype(float).mean(0)
    np.testing.assert_allclose(difference, expected, rtol=1e-14, atol=1e-15)


def test_float64_accumulation_keeps_what_float32_loses() -> None:
    harmful = np.full((4096, 1, 1), 4097.0, dtype=np.float32)
    harmful[::2] += np.float32(2**-11)
    harmless = np.full((4096, 1, 1), 4097.0, dtype=np.float32)
    assert mean_difference(harmful, harmless)[0, 0] == 2**-12


@pytest.mark.parametrize(("n", "m"), [(127, 119), (128, 1), (3, 7)])
def test_equal_activations_give_exactly_zero(n: int, m: int) -> None:
    same = RNG.normal(size=(1, 2, 64)).astype(np.float32)
    assert not mean_difference(np.repeat(same, n, axis=0), np.repeat(same, m, axis=0)).any()


def test_unit_norm_and_zero() -> None:
    rounding = HARMFUL[:1] + 1e-13 * RNG.normal(size=(1, 3, 5))
    assert not unit_mean_difference(rounding, HARMFUL[:1].astype(float)).any()
    assert is_zero(np.array([[1e-9, 0], [0, 1e-7], [np.nan, 0]])).tolist() == [True, False, False]
    np.testing.assert_allclose(np.linalg.norm(unit_mean_difference(HARMFUL, HARMLESS), axis=-1), 1.0)
    assert not unit(np.zeros((2, 3))).any()
    assert np.isnan(unit(np.array([[np.nan, 1.0], [3.0, 4.0]]))).tolist() == [[True, True], [False, False]]
