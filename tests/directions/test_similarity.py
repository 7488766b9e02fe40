import numpy as np

from refusal_lightning.directions.analysis.similarity import cosine_matrix

RNG = np.random.default_rng(0)


def test_cosine_matrix() -> None:
    directions = RNG.normal(size=(2, 3, 5))
    directions[0, 0] = 1e-15  # rounding, not a direction
    directions[1, 2] = -4 * directions[0, 1]
    cosines = cosine_matrix(directions)
    assert cosines.shape == (2, 3, 2, 3)
    a, b = directions[1, 0], directions[0, 2]
    np.testing.assert_allclose(cosines[1, 0, 0, 2], a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    np.testing.assert_allclose([cosines[1, 2, 0, 1], cosines[0, 1, 0, 1]], [-1, 1])
    assert np.isnan(cosines[0, 0]).all() and np.isnan(cosines[:, :, 0, 0]).all()
    assert np.isnan(cosines).sum() == 6 + 6 - 1
