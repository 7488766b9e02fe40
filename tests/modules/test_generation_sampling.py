"""Sampling against the distribution written out."""

from __future__ import annotations

import pytest
import torch

from refusal_lightning.inference.sampling import AT_A_TIME, Sampling

PROBABILITIES = (0.1, 0.4, 0.05, 0.3, 0.15)


@pytest.mark.parametrize(
    ("temperature", "top_p", "kept"),
    [
        (1.0, 1.0, [0, 1, 2, 3, 4]),
        (0.5, 1.0, [0, 1, 2, 3, 4]),
        (1.0, 0.7, [1, 3]),
        (1.0, 0.71, [1, 3, 4]),
        (1.0, 1e-9, [1]),
    ],
)
def test_shares_are_the_distributions(temperature, top_p, kept):
    n = 5000  # evenly spaced draws: shares are right to 1 / n
    logits = torch.tensor(PROBABILITIES).log().expand(n, -1)
    tokens = Sampling(temperature, top_p, 0).choose(logits, (torch.arange(n, dtype=torch.float64) + 0.5) / n)
    weights = torch.tensor([p ** (1 / temperature) if i in kept else 0.0 for i, p in enumerate(PROBABILITIES)])
    torch.testing.assert_close(tokens.bincount(minlength=5) / n, weights / weights.sum(), atol=2 / n, rtol=0)


def test_rows_are_drawn_for_by_themselves():
    n = 2 * AT_A_TIME + 3
    logits = torch.randn(n, 50, generator=torch.Generator().manual_seed(0))
    draws = torch.rand(n, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    sampling = Sampling(0.7, 0.8, 0)
    alone = torch.cat([sampling.choose(logits[i : i + 1], draws[i : i + 1]) for i in range(n)])
    assert torch.equal(sampling.choose(logits, draws), alone)


def test_draws_depend_on_seed_prompt_and_intervention():
    base = Sampling(1.0, 1.0, 1).draws("a", "baseline", 8)
    assert torch.equal(base, Sampling(0.5, 0.9, 1).draws("a", "baseline", 8))
    assert torch.equal(base[:4], Sampling(1.0, 1.0, 1).draws("a", "baseline", 4))
    others = [Sampling(1.0, 1.0, 2).draws("a", "baseline", 8), Sampling(1.0, 1.0, 1).draws("b", "baseline", 8)]
    others.append(Sampling(1.0, 1.0, 1).draws("a", "ablation", 8))
    assert not any(torch.equal(base, other) for other in others)
    assert base.dtype == torch.float64
