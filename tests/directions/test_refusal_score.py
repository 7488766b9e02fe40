import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from refusal_lightning.directions.metrics.refusal_score import refusal_scores
from refusal_lightning.errors import UserError


def naive(logits: list[float], tokens: list[int], epsilon: float = 1e-8) -> float:
    top = max(logits)
    weights = [math.exp(x - top) for x in logits]
    p = math.fsum(weights[t] for t in tokens) / math.fsum(weights)
    return math.log(p + epsilon) - math.log(1 - p + epsilon)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats(-30, 30, width=32), min_size=3, max_size=8),
    st.sampled_from([[0], [2], [2, 0], [1, 2]]),
)
def test_equals_the_definition(logits: list[float], tokens: list[int]) -> None:
    scores = refusal_scores(torch.tensor([logits, logits[::-1]], dtype=torch.float32), tokens)
    assert scores.dtype == torch.float64
    expected = [naive(logits, tokens), naive(logits[::-1], tokens)]
    np.testing.assert_allclose(scores.numpy(), expected, rtol=1e-7, atol=1e-7)


def test_is_computed_in_float64() -> None:
    # float32 cannot hold 1 - p here: its score would be the cap of 18.4
    logits = torch.tensor([[17.5, 0.0]], dtype=torch.float32)
    assert refusal_scores(logits, [0]).item() == pytest.approx(17.165, abs=1e-3)


def test_epsilon_caps_a_certain_refusal() -> None:
    score = refusal_scores(torch.tensor([[0.0, 1000.0]]), [1])
    assert score.item() == pytest.approx(-math.log(1e-8), abs=1e-6)


def test_equal_probabilities_give_zero() -> None:
    assert refusal_scores(torch.zeros(2, 6), [0, 2, 4]).tolist() == pytest.approx([0.0, 0.0], abs=1e-12)


@pytest.mark.parametrize(
    ("tokens", "word"), [([], "no token"), ([1, 1], "repeats"), ([3], "vocabulary"), ([-1], "vocabulary")]
)
def test_bad_tokens_are_refused(tokens: list[int], word: str) -> None:
    with pytest.raises(UserError, match=word):
        refusal_scores(torch.zeros(1, 3), tokens)
