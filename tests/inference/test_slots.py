"""The queue and the slots: every row is served once, newcomers fit, idle slots do not stay."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from refusal_lightning.inference.slots import CHANGE_AT, Slots


@given(st.lists(st.integers(1, 30), min_size=1, max_size=80), st.integers(1, 40), st.integers(0, 99))
def test_every_row_is_served_once_and_fits(lengths, n_slots, seed):
    rng = random.Random(seed)
    slots = Slots(lengths, n_slots)
    assert len(slots.rows) == min(n_slots, len(lengths))
    served = []
    while not slots.done:
        before = [slots.row(slot) for slot in slots.busy]
        came = slots.arrivals()
        for slot, row in came:
            assert slots.row(slot) == row
            assert all(lengths[row] <= lengths[other] for other in before)
        served += [row for _, row in came]
        waiting = len(slots.waiting)
        stay = slots.compact()
        assert stay is None or waiting == 0
        if stay is not None:
            assert slots.rows == [slots.row(i) for i in range(len(stay))]
        idle = slots.rows.count(None)
        assert idle * CHANGE_AT < len(slots.rows) or (idle == len(slots.rows) and not waiting)
        for slot in slots.busy:
            if rng.random() < 0.3:
                slots.leave(slot)
    assert sorted(served) == list(range(len(lengths)))


def test_longest_first_and_ties_by_number():
    slots = Slots([3, 5, 5, 1], 2)
    assert slots.arrivals() == [(0, 1), (1, 2)]
    assert slots.arrivals() == []
    slots.leave(1)
    assert slots.arrivals() == [(1, 0)]
    assert slots.busy == [0, 1]
