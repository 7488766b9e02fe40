"""Which strategy fits a model to devices."""

from __future__ import annotations

from typing import NamedTuple

ROOM = 0.9
"""Share of a device's memory to plan with; the rest is for what is not planned."""


class Placement(NamedTuple):
    """A strategy of `trainer.strategy`, and how many copies of the model work at a time under it."""

    strategy: str | None
    """ddp, device_map, or None: nothing fits."""
    copies: int
    memory: float
    """Bytes on each device."""


def place(kept: float, work: float, device: float, devices: int, nodes: int) -> Placement:
    """The strategy on nodes of so many devices, for a copy that keeps so many bytes (weights, keys and values) and
    whose passes take ``work`` beside them.

    A copy per device where one fits; else a copy per node, whose devices each hold a part of the layers and work one
    after the other, so that a node counts as one.
    """
    room = ROOM * device
    if kept + work <= room:
        return Placement("ddp", devices * nodes, kept + work)
    if kept / devices + work <= room:
        return Placement("device_map", nodes, kept / devices + work)
    return Placement(None, 0, kept / devices + work)
