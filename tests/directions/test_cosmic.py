import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refusal_lightning.directions.metrics.cosmic import cosmic_scores, inversion_cosine, least_similar_layers


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_equals_intervening_on_every_stored_activation(seed: int) -> None:
    rng = np.random.default_rng(seed)
    harmful, harmless = rng.normal(size=(5, 6, 8)) + 1, rng.normal(size=(4, 6, 8))  # prompt layer d_model
    directions = rng.normal(size=(2, 6, 8))
    layers = (2, 4)
    scores = cosmic_scores(harmful.mean(0), harmless.mean(0), directions, layers)
    for position in range(2):
        for layer in range(6):
            v = directions[position, layer]
            r = v / np.linalg.norm(v)
            ablated = harmful - (harmful @ r)[..., None] * r
            added = harmless.copy()
            added[:, layer:] += v
            means = [x[:, layers].mean(axis=(0, 1)) for x in (ablated, harmless, added, harmful)]
            assert scores.comply[position, layer] == pytest.approx(cosine(means[0], means[1]))
            assert scores.refuse[position, layer] == pytest.approx(cosine(means[2], means[3]))
            captured = inversion_cosine(ablated.mean(axis=0), harmless.mean(axis=0), layers)
            assert scores.comply[position, layer] == pytest.approx(float(captured))


def test_finds_the_planted_direction() -> None:
    rng = np.random.default_rng(0)
    direction = np.eye(16)[3] * 4
    harmless = rng.normal(size=(10, 16))
    harmless[:, 3] = 0
    harmful = harmless.copy()
    harmful[5:] += direction
    directions = rng.normal(size=(2, 10, 16))
    directions[:, 0] = 0
    directions[-1, 5] = direction
    layers = least_similar_layers(harmful, harmless, fraction=0.3)
    assert set(layers) <= {5, 6, 7, 8, 9} and len(layers) == 3
    scores = cosmic_scores(harmful, harmless, directions, layers)
    assert scores.best() == (-1, 5) and scores.total[-1, 5] == pytest.approx(2)
    assert np.isnan(scores.comply[:, 0]).all() and np.isnan(scores.refuse[:, 0]).all()
    allowed = np.ones((2, 10), dtype=bool)
    allowed[-1, 5] = False
    assert scores.best(allowed) not in (None, (-1, 5))
    assert scores.best(np.zeros((2, 10), dtype=bool)) is None


def test_least_similar_layers_leave_layer_0_out_and_never_are_empty() -> None:
    a = np.array([[1.0, 0], [1, 0], [1, 0], [1, 0]])
    b = np.array([[-1.0, 0], [1, 0], [1, 1], [1, 0.5]])
    assert least_similar_layers(a, b, 0.1) == (2,)
    assert least_similar_layers(a, b, 0.5) == (2, 3)


def test_addition_above_the_compared_layers_changes_nothing() -> None:
    rng = np.random.default_rng(1)
    harmful, harmless, directions = rng.normal(size=(5, 4)), rng.normal(size=(5, 4)), rng.normal(size=(1, 5, 4))
    scores = cosmic_scores(harmful, harmless, directions, (2,))
    np.testing.assert_allclose(scores.refuse[0, 3:], cosine(harmless[2], harmful[2]))
    assert abs(scores.refuse[0, 1] - scores.refuse[0, 3]) > 1e-3
