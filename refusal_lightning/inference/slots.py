"""Which row sits in which slot of the batch, and when rows change."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

CHANGE_AT = 16
"""Rows change once a sixteenth of the slots have nothing to do: a pass over few new prompts is a poor one, and an idle
slot costs as much as a busy one."""


class Slots:
    """Rows wait with the longest prompt first, take a slot, and leave it when their answer has ended.

    Longest first, since then every newcomer fits into the width that the batch has, memory runs out at once or not at
    all, and neighbours in the queue are of like length. Depends on nothing but the rows and the number of slots.
    """

    def __init__(self, lengths: Sequence[int], n_slots: int) -> None:
        """``lengths`` are those of the rows' prompts, in tokens."""
        self.waiting = deque(sorted(range(len(lengths)), key=lambda row: (-lengths[row], row)))
        self.rows: list[int | None] = [None] * min(n_slots, len(lengths))

    @property
    def busy(self) -> list[int]:
        """Slots with a row, ascending (a list of its own)."""
        return [slot for slot, row in enumerate(self.rows) if row is not None]

    def row(self, slot: int) -> int:
        """The row in a busy slot."""
        row = self.rows[slot]
        assert row is not None
        return row

    @property
    def done(self) -> bool:
        return not self.waiting and not self.busy

    def _change_is_due(self) -> bool:
        idle = self.rows.count(None)
        return idle > 0 and (idle == len(self.rows) or idle * CHANGE_AT >= len(self.rows))

    def arrivals(self) -> list[tuple[int, int]]:
        """(slot, row) of the rows that come in now; they have their slots from here on."""
        if not self.waiting or not self._change_is_due():
            return []
        idle = [slot for slot, row in enumerate(self.rows) if row is None]
        came = [(slot, self.waiting.popleft()) for slot in idle[: len(self.waiting)]]
        for slot, row in came:
            self.rows[slot] = row
        return came

    def leave(self, slot: int) -> None:
        """The answer in a slot has ended."""
        self.rows[slot] = None

    def compact(self) -> list[int] | None:
        """Give up idle slots that nobody waits for. Returns the slots that stay, or None where nothing changes."""
        if self.waiting or not self.busy or not self._change_is_due():
            return None
        stay = self.busy
        self.rows = [self.rows[slot] for slot in stay]
        return stay
