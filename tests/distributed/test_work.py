"""Batches of a predict loop are made one by one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from refusal_lightning.distributed.work import WorkDataModule


def loader(**how: Any) -> Any:
    strategy = SimpleNamespace(broadcast=lambda keys: keys)
    work = WorkDataModule(pending=lambda: [1, 2, 3], **how)
    work.trainer = SimpleNamespace(global_rank=0, world_size=1, strategy=strategy)  # type: ignore[assignment]
    work.setup("predict")
    return work.predict_dataloader()


def test_a_batch_is_made_when_its_turn_has_come():
    made: list[Any] = []

    def make(name: tuple[int, int]) -> str:
        made.append(name)
        return f"batch {name}"

    batches = loader(batches=lambda key: [(key, i) for i in range(key)], make=make)
    assert len(batches) == 6 and not made
    for count, batch in enumerate(batches, start=1):
        assert len(made) == count and batch == f"batch {made[-1]}"
    assert made == [(1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2)]


def test_a_unit_is_its_own_batch():
    assert list(loader()) == [1, 2, 3]
