"""How answers are divided into units, what is kept of earlier runs, and how many rows fit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import tiny_model

from refusal_lightning.config import SamplingConfig
from refusal_lightning.inference import batch_size
from refusal_lightning.interventions import BASELINE
from refusal_lightning.stages.evaluate.completions import (
    Completion,
    CompletionTask,
    _tasks_of_request,
    split_into_units,
)


@given(st.dictionaries(st.tuples(st.integers(0, 3), st.integers(0, 20)), st.integers(1, 9)), st.integers(1, 12))
def test_units_hold_every_row_once_by_length(rows, size):
    units = split_into_units(rows, size)
    flat = [row for unit in units for row in unit]
    assert sorted(flat) == sorted(rows)
    assert [rows[row] for row in flat] == sorted(rows.values())
    assert all(0 < len(unit) <= size for unit in units)
    assert not units or max(map(len, units)) - min(map(len, units)) <= 1


def test_a_continued_run_divides_as_before_and_an_added_task_joins_nothing(tmp_path):
    one, two = (CompletionTask([0, 1], BASELINE, key) for key in "ab")  # type: ignore[arg-type]
    path, answer = tmp_path / "plan.json", Completion("", 0)
    assert _tasks_of_request([one], {}, path, 2) == [0]
    done = {("a", 0): answer, ("a", 1): answer}
    assert _tasks_of_request([one], done, path, 2) == [0]  # the same request: the same division
    assert _tasks_of_request([one, two], done, path, 2) == [1]
    assert _tasks_of_request([one, two], {**done, ("b", 0): answer}, path, 2) == [1]
    assert _tasks_of_request([one, two], {**done, ("b", 0): answer}, path, 3) == [1]


def test_rows_that_fit_follow_the_memory(monkeypatch):
    model, _ = tiny_model("llama")
    row = batch_size.row_bytes(model.config, 100, 4)
    assert row > 2 * 4 * model.config.num_hidden_layers * 16 * 100  # keys and values alone
    fits = []
    for gigabytes in (0.001, 0.05, 0.1, 100):
        monkeypatch.setattr(batch_size, "host_memory", lambda size=gigabytes: int(size * 1e9))
        fits.append(batch_size.rows_that_fit(model, 100))
    assert fits == sorted(fits)
    assert fits[0] == 1
    assert fits[-1] == batch_size.MOST["cpu"]


@pytest.mark.parametrize("wrong", [{"temperature": 0.0}, {"top_p": 0.0}, {"top_p": 1.5}])
def test_wrong_sampling_is_refused_by_name(wrong):
    (key,) = wrong
    with pytest.raises(ValueError, match=f"evaluate.sampling.{key}"):
        SamplingConfig(**wrong)
