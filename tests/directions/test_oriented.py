import numpy as np

from refusal_lightning.directions.estimators.oriented import oriented, solve_per_position


def test_oriented_takes_sign_and_norm() -> None:
    np.testing.assert_allclose(oriented(np.array([-0.6, 0.8]), np.array([5.0, 0.0])), [3.0, -4.0])
    assert not oriented(np.array([1.0, 0.0]), np.zeros(2)).any()


def test_a_position_with_nan_gives_nan_and_leaves_the_others() -> None:
    harmful, harmless = np.ones((3, 2, 4)), np.zeros((2, 2, 4))
    harmful[1, 0, 2] = np.nan
    directions = solve_per_position(lambda h, s, d: -d, harmful, harmless)
    assert np.isnan(directions[0]).all()
    np.testing.assert_array_equal(directions[1], np.ones(4))
