import math

import numpy as np
import pytest
import torch

from refusal_lightning.directions.metrics.kl import exact_kl_scores, kl_scores


def naive(p: np.ndarray, q: np.ndarray, epsilon: float) -> float:
    return math.fsum(a * (math.log(a + epsilon) - math.log(b + epsilon)) for a, b in zip(p, q, strict=True))


@pytest.fixture
def distributions() -> tuple[np.ndarray, np.ndarray]:
    weights = np.random.default_rng(0).normal(scale=4, size=(2, 4, 50))
    p, q = np.exp(weights) / np.exp(weights).sum(-1, keepdims=True)
    return p, q


def test_equals_the_definition(distributions: tuple[np.ndarray, np.ndarray]) -> None:
    p, q = distributions
    scores = kl_scores(torch.from_numpy(p).log(), torch.from_numpy(q).log())
    assert scores.dtype == torch.float64
    np.testing.assert_allclose(scores, [naive(a, b, 1e-6) for a, b in zip(p, q, strict=True)], rtol=1e-9)


def test_direction_of_the_divergence() -> None:
    certain, even = torch.tensor([[0.0, -math.inf]]), torch.tensor([[0.0, 0.0]])
    assert kl_scores(certain, even).item() == pytest.approx(math.log(2), abs=1e-5)
    assert kl_scores(even, certain).item() == pytest.approx(0.5 * math.log(0.5) * 2 - 0.5 * math.log(1e-6), abs=1e-5)


def test_epsilon_matters_and_the_exact_form_has_none(distributions: tuple[np.ndarray, np.ndarray]) -> None:
    p, q = distributions
    exact = exact_kl_scores(torch.from_numpy(p).log(), torch.from_numpy(q).log())
    np.testing.assert_allclose(exact, (p * (np.log(p) - np.log(q))).sum(-1), rtol=1e-6)
    assert not np.allclose(exact, kl_scores(torch.from_numpy(p).log(), torch.from_numpy(q).log()), rtol=1e-3)


def test_equal_distributions_give_zero_also_when_shifted_or_in_float32() -> None:
    logits = torch.randn(3, 40, generator=torch.Generator().manual_seed(0))
    assert kl_scores(logits, logits).tolist() == [0, 0, 0]
    assert kl_scores(logits, logits.double() + 100).abs().max() < 1e-12
    assert exact_kl_scores(logits, logits.log_softmax(-1)).abs().max() < 1e-6


def test_nan_logits_stay_nan() -> None:
    broken = torch.tensor([[0.0, math.nan]])
    assert exact_kl_scores(broken, torch.zeros(1, 2)).isnan().all()
    assert kl_scores(torch.zeros(1, 2), broken).isnan().all()


def test_exact_form_with_excluded_tokens() -> None:
    excluded, even = torch.tensor([[0.0, -math.inf]]), torch.tensor([[0.0, 0.0]])
    assert exact_kl_scores(excluded, even).item() == pytest.approx(math.log(2))
    assert exact_kl_scores(excluded, excluded).item() == 0
    assert exact_kl_scores(even, excluded).item() == math.inf
