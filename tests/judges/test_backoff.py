"""Waiting: what servers ask for in every form, one gate for all tasks, and a pace."""

import time
from email.utils import formatdate

import pytest

from refusal_lightning.judges.sources.backoff import LONGEST_DELAY, Gate, Limits, delay, retry_after


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7),
        ({"retry-after": " 90 "}, 90),
        ({"retry-after": "0.25"}, 0.25),
        ({"retry-after": "3600"}, 3600),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "1e9"}, None),
        ({"retry-after": "9" * 400}, None),
        ({"retry-after": "Wed, 21 Oct 2026 07:29:30 GMT", "date": "Wed, 21 Oct 2026 07:28:00 GMT"}, 90),
        ({"retry-after": "Wed, 21 Oct 2026 07:27:00 GMT", "date": "Wed, 21 Oct 2026 07:28:00 GMT"}, 0),
        ({"retry-after": "Wed, 99 Oct 2026 07:27:00 GMT"}, None),
    ],
)
def test_retry_after(headers, seconds):
    assert retry_after(headers) == seconds


def test_retry_after_date_without_the_servers_clock():
    assert retry_after({"retry-after": formatdate(time.time() + 100, usegmt=True)}) == pytest.approx(100, abs=3)


def test_delay_doubles_to_a_cap_with_jitter():
    for tries, full in ((1, 1), (2, 2), (5, 16), (7, LONGEST_DELAY), (5000, LONGEST_DELAY)):
        waits = [delay(tries, 1.0) for _ in range(50)]
        assert 0.75 * full <= min(waits) < max(waits) <= full


def test_gate_holds_everyone_as_long_as_the_server_asks():
    gate = Gate(Limits())
    assert gate.enter(10.0) == gate.enter(10.0) == 0.0
    assert gate.close(sent=10.0, now=11.0, wanted=90.0) == 90.0
    assert gate.enter(11.0) == 90.0
    assert gate.enter(100.0) == 1.0
    assert gate.enter(101.0) == 0.0


def test_a_shorter_wish_does_not_reopen_the_gate():
    gate = Gate(Limits())
    gate.close(10.0, 11.0, 90.0)
    assert gate.close(10.5, 12.0, 2.0) == 89.0


def test_simultaneous_refusals_count_once():
    gate = Gate(Limits(first_delay_s=1.0))
    waits = [gate.close(sent=10.0, now=11.0 + i / 100, wanted=None) for i in range(8)]
    assert max(waits) <= 1.0, "eight requests under way are one event, not eight doublings"
    assert 1.5 <= gate.close(sent=20.0, now=21.0, wanted=None) <= 2.0
    assert 3.0 <= gate.close(sent=30.0, now=31.0, wanted=0.0) <= 4.0, "0 s is no answer to how long"
    gate.answered()
    assert 0.75 <= gate.close(sent=40.0, now=41.0, wanted=None) <= 1.0


def test_pace():
    gate = Gate(Limits(requests_per_minute=120))
    now, sent = 0.0, list[float]()
    while len(sent) < 5:
        if wait := gate.enter(now):
            now += wait
        else:
            sent.append(now)
    assert sent == pytest.approx([0, 0.5, 1, 1.5, 2])
