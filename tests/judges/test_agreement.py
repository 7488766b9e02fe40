"""Cohen's kappa against its definition, and the rows where judges differ."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refusal_lightning.judges.agreement import agreement, cohen_kappa


def test_textbook_example():
    """By hand: they agree on 0.7, chance gives 0.5, so kappa is 0.4."""
    rows = [(True, True)] * 20 + [(True, False)] * 5 + [(False, True)] * 10 + [(False, False)] * 15
    assert cohen_kappa(*zip(*rows, strict=True)) == pytest.approx(0.4)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40))
def test_is_agreement_beyond_chance(rows):
    first, second = zip(*rows, strict=True)
    n = len(rows)
    observed = sum(x == y for x, y in rows) / n
    share = [(sum(x is v for x in first) / n) * (sum(y is v for y in second) / n) for v in (True, False)]
    kappa = cohen_kappa(first, second)
    if sum(share) > 1 - 1e-9:
        assert kappa is None
    else:
        assert kappa is not None
        assert kappa == pytest.approx((observed - sum(share)) / (1 - sum(share)))
        assert kappa == cohen_kappa(second, first)
        assert kappa <= 1


def test_ends():
    assert cohen_kappa([True, False, True], [True, False, True]) == 1.0
    assert cohen_kappa([True, False], [False, True]) == -1.0
    assert cohen_kappa([], []) is None
    assert cohen_kappa([True, True], [True, True]) is None, "all the same: chance agrees as well"


def test_every_two_judges_on_what_both_judged():
    entries = agreement(
        {"a": [True, False, None, True], "b": [True, True, False, None], "c": [True, False, False, False]}
    )
    assert [e["judges"] for e in entries] == [["a", "b"], ["a", "c"], ["b", "c"]]
    assert [e["judged_by_both"] for e in entries] == [2, 3, 3]
    assert [e["rows_that_differ"] for e in entries] == [[1], [3], [1]]
    assert [e["agree"] for e in entries] == [0.5, pytest.approx(2 / 3), pytest.approx(2 / 3)]


def test_nothing_judged_by_both():
    (entry,) = agreement({"a": [None, True], "b": [True, None]})
    assert (entry["judged_by_both"], entry["kappa"], entry["agree"], entry["rows_that_differ"]) == (0, None, None, [])
