"""The splits, whatever the sets: nothing in two of them, nothing lost that need not be."""

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from refusal_lightning.data import splits as recipe
from refusal_lightning.data.splits import DRAWN, harmful_splits, require_disjoint, three_way
from refusal_lightning.errors import UserError

NAMES = recipe.HARMFUL_TRAIN + recipe.HARMFUL_VAL + recipe.HARMFUL_TEST


def rows_of(numbers):
    return [{"instruction": str(n), "category": None} for n in numbers]


prompts = st.lists(st.integers(0, 60), max_size=40).map(rows_of)


def texts(rows):
    return [row["instruction"] for row in rows]


@settings(max_examples=40)
@given(st.fixed_dictionaries({name: prompts for name in NAMES}), st.integers(0, 5))
def test_no_instruction_in_two_splits(sets, seed):
    splits = harmful_splits(sets, seed)
    require_disjoint(splits)
    test, val = set(texts(splits["test"])), set(texts(splits["val"]))
    assert texts(splits["test"]) == texts(sets["jailbreakbench"] + sets["harmbench_test"] + sets["strongreject"])
    assert val == set(texts(sets["harmbench_val"])) - test
    train = set(texts(sets["advbench"] + sets["malicious_instruct"] + sets["tdc2023"])) - test - val
    assert set(texts(splits["train"])) == train
    assert harmful_splits(sets, seed) == splits


def test_at_most_so_many_are_drawn():
    sets = {name: rows_of(range(520) if name == "advbench" else []) for name in NAMES}
    first, second = (harmful_splits(sets, seed)["train"] for seed in (1, 2))
    assert len(first) == len(set(texts(first))) == len(second) == DRAWN["advbench"] <= 128
    assert first != second


@given(prompts, st.integers(0, 5))
def test_three_ways(rows, seed):
    parts = three_way(rows, seed)
    require_disjoint(parts)
    assert sorted(texts(parts["train"] + parts["val"] + parts["test"])) == sorted(set(texts(rows)))
    n = len(set(texts(rows)))
    assert len(parts["train"]) == int(0.6 * n) and len(parts["val"]) == int(0.2 * n)


def test_an_overlap_is_named_without_its_text():
    row = {"instruction": "secret", "category": None}
    with pytest.raises(UserError, match="row 1 of b is in a too") as error:
        require_disjoint({"a": [row], "b": [{"instruction": "other"}, row]})
    assert "secret" not in str(error.value)
