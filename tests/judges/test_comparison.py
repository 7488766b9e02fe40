"""Paired comparison of interventions."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refusal_lightning.judges.comparison import compare, compare_evaluations, mcnemar_exact


@pytest.mark.parametrize(
    ("b", "c", "p"), [(0, 0, 1.0), (3, 3, 1.0), (1, 5, 14 / 64), (0, 10, 2 / 1024), (0, 1, 1.0), (460, 540, None)]
)
def test_mcnemar(b, c, p):
    assert mcnemar_exact(b, c) == mcnemar_exact(c, b)
    if p is None:  # large numbers: near the normal approximation, and no overflow
        p = math.erfc((abs(b - c) - 1) / math.sqrt(b + c) / math.sqrt(2))
        assert mcnemar_exact(b, c) == pytest.approx(p, rel=0.05)
    else:
        assert mcnemar_exact(b, c) == p


@given(st.integers(0, 12), st.integers(0, 12))
def test_mcnemar_counts_outcomes_as_extreme(b, c):
    n = b + c
    extreme = sum(math.comb(n, k) for k in range(n + 1) if abs(2 * k - n) >= abs(b - c))
    assert mcnemar_exact(b, c) == pytest.approx(extreme / 2**n)


def test_compare_pairs_rows_and_leaves_out_the_unjudged():
    first = [True, True, False, False, None, True, None]
    second = [True, False, True, False, True, None, None]
    result = compare(first, second)
    assert (result.both, result.only_first, result.only_second, result.neither, result.left_out) == (1, 1, 1, 1, 3)
    assert result.difference == 0.0
    assert compare([False] * 10, [True] * 10).difference == 1.0
    assert compare([None], [True]).difference is None
    with pytest.raises(ValueError):
        compare([True], [])


def _evaluation(values):
    return {"completions": [{"prompt": f"p{i}", "is_jailbreak_substring_matching": v} for i, v in enumerate(values)]}


def test_compare_evaluations():
    evaluations = {
        "baseline": _evaluation([0] * 12),
        "ablation": _evaluation([1] * 12),
        "actadd": _evaluation([1] * 11 + [None]),
    }
    entries = compare_evaluations(evaluations, ["substring_matching"])
    assert [(e["first"], e["second"]) for e in entries] == [
        ("baseline", "ablation"),
        ("baseline", "actadd"),
        ("ablation", "actadd"),
    ]
    assert [e["difference"] for e in entries] == [1.0, 1.0, 0.0]
    assert [e["left_out"] for e in entries] == [0, 1, 1]
    assert entries[0]["p_value"] == 2 / 2**12
    evaluations["actadd"]["completions"][0]["prompt"] = "another"
    with pytest.raises(ValueError, match="same prompts"):
        compare_evaluations(evaluations, ["substring_matching"])
