"""Dividing work among processes: every predict loop of the package reads its work from here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import lightning as L
from torch.utils.data import DataLoader

Key = TypeVar("Key")


def share_of(keys: Sequence[Key], rank: int, world_size: int) -> list[Key]:
    """The contiguous part of the work that a process does; parts differ in size by one at most."""
    size, rest = divmod(len(keys), world_size)
    start = rank * size + min(rank, rest)
    return list(keys[start : start + size + (rank < rest)])


class WorkDataModule(L.LightningDataModule):
    """Units of work, divided contiguously among the processes of a predict loop.

    ``pending()`` lists the keys of what is left to do; rank 0's list is broadcast, so that all processes divide
    the same one however far they started apart. ``batches(key)`` names the batches of a unit (the unit is its only one
    if left out), and ``make(name)`` makes a batch when its turn has come, so that they are never all in memory. They
    are of no sampler's making, so what a batch holds never depends on the number of processes. ``prepare()`` runs
    once, on global rank 0, before anything else.
    """

    def __init__(
        self,
        pending: Callable[[], Sequence[Any]],
        batches: Callable[[Any], Iterable[Any]] | None = None,
        make: Callable[[Any], Any] | None = None,
        prepare: Callable[[], None] | None = None,
    ) -> None:
        super().__init__()
        self.prepare_data_per_node = False
        self.allow_zero_length_dataloader_with_multiple_devices = True
        self._pending, self._prepare = pending, prepare
        self._batches, self._make = batches or _alone, make or _as_it_is
        self._mine: list[Any] = []

    def prepare_data(self) -> None:
        if self._prepare is not None:
            self._prepare()

    def setup(self, stage: str) -> None:
        assert self.trainer is not None
        rank, world_size = self.trainer.global_rank, self.trainer.world_size
        keys: Any = list(self._pending()) if rank == 0 else None
        keys = self.trainer.strategy.broadcast(keys)
        self._mine = share_of(keys, rank, world_size)

    def predict_dataloader(self) -> DataLoader[Any]:
        names = [name for key in self._mine for name in self._batches(key)]
        return DataLoader(names, batch_size=None, shuffle=False, collate_fn=self._make)  # type: ignore[arg-type]


def _alone(key: Any) -> list[Any]:
    return [key]


def _as_it_is(batch: Any) -> Any:
    return batch
