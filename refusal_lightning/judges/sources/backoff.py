"""When the next request may go: the pace of the config, and the waiting that a server asks for, shared by all tasks."""

from __future__ import annotations

import math
import random
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

LONGEST_DELAY = 60.0
"""Seconds between two tries, at most, where the server does not say how long to wait."""


@dataclass(frozen=True)
class Limits:
    """How hard an endpoint is pressed, and how long."""

    concurrency: int = 8
    """Requests under way at a time."""
    requests_per_minute: float | None = None
    """Pace of the requests; None sets none."""
    timeout_s: float = 60.0
    """Longest wait for one reply, in seconds."""
    deadline_s: float = 600.0
    """Longest time spent on one question, tries and waits included, in seconds."""
    first_delay_s: float = 1.0
    """Wait before the second try, in seconds; it doubles with each further one."""


def delay(tries: int, first: float) -> float:
    """Seconds to wait after so many failed tries: doubling, capped, with jitter so that tasks do not march in step."""
    return min(first * 2.0 ** min(tries - 1, 30), LONGEST_DELAY) * random.uniform(0.75, 1.0)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a reply asks to wait: `retry-after-ms`, or `retry-after` as seconds or an HTTP date; else None.

    A date is measured from the server's own `date`, since clocks differ. Header names are lower case.
    """
    milliseconds = headers.get("retry-after-ms", "").strip()
    if _NUMBER.fullmatch(milliseconds):
        return float(milliseconds) / 1000
    text = headers.get("retry-after", "").strip()
    if _NUMBER.fullmatch(text):
        return float(text)
    until = _date(text)
    if until is None:
        return None
    return max(0.0, until - (_date(headers.get("date", "")) or time.time()))


_NUMBER = re.compile(r"\d{1,9}(\.\d+)?")


def _date(text: str) -> float | None:
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


class Gate:
    """The one door that all requests to an endpoint go through. Times are seconds of one monotonic clock."""

    def __init__(self, limits: Limits) -> None:
        self._spacing = 60.0 / limits.requests_per_minute if limits.requests_per_minute else 0.0
        self._first_delay = limits.first_delay_s
        self._next_slot = self._closed_until = self._closed_at = float("-inf")
        self._streak = 0

    def enter(self, now: float) -> float:
        """0 when a request may go now (it has then taken its place); else the seconds to wait before asking again."""
        wait = max(self._closed_until, self._next_slot) - now
        if wait > 0:
            return wait
        self._next_slot = now + self._spacing
        return 0.0

    def answered(self) -> None:
        """A request got through."""
        self._streak = 0

    def close(self, sent: float, now: float, wanted: float | None, at_most: float = math.inf) -> float:
        """A request sent at a time was told to slow down: close for all. Returns for how many seconds it stays closed.

        Where the server does not say how long, each closing in a row doubles the wait; requests that were under way
        when the gate closed tell nothing new. A wait of more than ``at_most`` seconds closes nothing: it is for the
        caller to judge.
        """
        if sent >= self._closed_at:
            self._streak += 1
            self._closed_at = now
        seconds = wanted or delay(max(self._streak, 1), self._first_delay)
        if seconds > at_most:
            return seconds
        self._closed_until = max(self._closed_until, now + seconds)
        return self._closed_until - now
