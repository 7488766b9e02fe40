"""First tokens that are much likelier on harmful prompts."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from refusal_lightning.directions.metrics.refusal_tokens import likelier_on_harmful, mean_probabilities


def distribution(size: int, **masses: float) -> torch.Tensor:
    """Given masses at tokens (t5=0.4), the rest spread evenly."""
    p = torch.full((size,), (1 - sum(masses.values())) / (size - len(masses)), dtype=torch.float64)
    for token, mass in masses.items():
        p[int(token[1:])] = mass
    return p


def test_planted_tokens_are_found_by_difference():
    harmful = distribution(50, t3=0.5, t7=0.3, t9=0.1, t11=0.05)
    harmless = distribution(50, t3=0.02, t9=0.09, t11=0.001)
    found = likelier_on_harmful(harmful, harmless)
    assert [entry.token for entry in found] == [3, 7]
    assert (found[0].harmful, found[0].harmless) == (0.5, 0.02)
    assert 9 not in [entry.token for entry in found]  # likely, but no likelier


def test_what_is_rare_or_beside_the_point_is_left_out():
    harmful = distribution(1000, t3=0.8, t4=0.05, t5=0.009)
    harmless = distribution(1000, t3=0.01, t4=0.0, t5=0.0)
    # t4's difference is below a fourth of t3's, t5 is below one percent.
    assert [entry.token for entry in likelier_on_harmful(harmful, harmless)] == [3]


def test_alike_prompts_show_none():
    p = distribution(20, t2=0.6)
    assert likelier_on_harmful(p, p) == []
    assert likelier_on_harmful(p, distribution(20, t2=0.35)) == []  # less than twice as likely


def test_at_most_so_many():
    harmful = torch.zeros(40, dtype=torch.float64)
    harmful[:20] = 0.05
    harmless = torch.zeros(40, dtype=torch.float64)
    harmless[20:] = 0.05
    assert [entry.token for entry in likelier_on_harmful(harmful, harmless)] == list(range(8))


@given(st.lists(st.integers(0, 11), min_size=1, max_size=40), st.integers(1, 7))
def test_probabilities_do_not_depend_on_the_batches(likeliest: list[int], at_once: int):
    logits = torch.nn.functional.one_hot(torch.tensor(likeliest), 12).float() * 3
    batches = [logits[i : i + at_once] for i in range(0, len(logits), at_once)]
    expected = logits.double().softmax(-1).mean(0)
    assert torch.allclose(mean_probabilities(batches), expected, atol=1e-15)
    assert abs(float(mean_probabilities(batches).sum()) - 1) < 1e-12
