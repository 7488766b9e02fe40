"""Which strategy fits a model to devices."""

from __future__ import annotations

from typing import NamedTuple


class Placement(NamedTuple):
    """A strategy of `trainer.strategy`, and how many copies of the model work at a time under it."""

    strategy: str | None
    """ddp, device_map, or None: nothing fits."""
    copies: int
    memory: float
    """Bytes on each device."""


def place(weights: float, work: float, device: float, devices: int, nodes: int) -> Placement:
    """The strategy for a model of so many bytes, whose passes take ``work`` beside them, on nodes of so many devices.

    A copy per device where one fits; else a copy per node, whose devices each hold a part of the layers and work one
    after the other, so that a node counts as one. A device keeps a tenth of its memory for what is not planned.
    """
    room = 0.9 * device
    if weights + work <= room:
        return Placement("ddp", devices * nodes, weights + work)
    if weights / devices + work <= room:
        return Placement("device_map", nodes, weights / devices + work)
    return Placement(None, 0, weights / devices + work)
