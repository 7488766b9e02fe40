import numpy as np

from refusal_lightning.directions.analysis.projection import projections, spread


def test_signed_length_along_the_unit_direction() -> None:
    activations = np.array([[[3.0, 4.0], [0.0, -2.0]]], dtype=np.float32)
    found = projections(activations, np.array([0.0, 7.0]))
    assert found.dtype == np.float64 and found.tolist() == [[4.0, -2.0]]
    assert projections(activations, np.zeros(2)).tolist() == [[0.0, 0.0]]


def test_spread() -> None:
    values = np.random.default_rng(0).normal(size=(7, 2, 3))
    found = spread(values)
    np.testing.assert_allclose(found["mean"], values.mean(axis=0))
    np.testing.assert_allclose(found["sd"] ** 2 * 6, ((values - values.mean(axis=0)) ** 2).sum(axis=0))
    np.testing.assert_allclose(found["q50"], np.sort(values, axis=0)[3])
    assert all(x.shape == (2, 3) for x in found.values())
    assert np.isnan(spread(values[:1])["sd"]).all() and (spread(values[:1])["q95"] == values[0]).all()
