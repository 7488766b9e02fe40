"""From forward passes to the store: whole shards, written by a thread while the next forward pass runs."""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import BasePredictionWriter

from refusal_lightning.modules.activations import ActivationBatch
from refusal_lightning.store import ActivationStore, Shard


class StoreWriter(BasePredictionWriter):
    """Gathers a shard's rows and hands the whole shard to a writing thread.

    Durable: a shard is written whole or not at all, so a kill costs at most the shards at hand. Bounded: one shard
    is gathered, one waits, one is written; a slow disk slows the forward passes, it does not fill the memory.
    """

    def __init__(self, store: ActivationStore) -> None:
        super().__init__(write_interval="batch")
        self._store = store
        self._gathering: dict[int, tuple[dict[str, np.ndarray], int]] = {}
        self._queue: queue.Queue[tuple[int, dict[str, np.ndarray]] | None] = queue.Queue(maxsize=1)
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    @property
    def at_rest(self) -> bool:
        """Whether no shard is at hand: what was computed is written or about to be."""
        return not self._gathering

    def write_on_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        prediction: ActivationBatch,
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        shard = self._store.shard(prediction.shard)
        arrays, done = self._gathering.pop(prediction.shard, ({}, 0))
        for name, tensor in prediction.arrays.items():
            per_token = self._store.layout.ragged and name in self._store.layout.hook_points
            values = _to_numpy(tensor)
            if name not in arrays:
                n_rows = sum(shard.n_tokens) if per_token else shard.n_rows
                arrays[name] = np.empty((n_rows, *values.shape[1:]), dtype=values.dtype)
            arrays[name][_token_rows(shard, prediction.rows) if per_token else prediction.rows] = values
        done += len(prediction.rows)
        if done < shard.n_rows:
            self._gathering[prediction.shard] = (arrays, done)
        else:
            self._hand_over((prediction.shard, arrays))

    def _hand_over(self, item: tuple[int, dict[str, np.ndarray]] | None) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._write_all, name="store-writer", daemon=True)
            self._thread.start()
        while True:
            if self._error is not None:
                raise self._error
            try:
                self._queue.put(item, timeout=0.2)
                return
            except queue.Full:
                continue

    def _write_all(self) -> None:
        try:
            while (item := self._queue.get()) is not None:
                self._store.write_shard(*item)
        except BaseException as error:
            self._error = error

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.finish()

    def finish(self) -> None:
        """Wait for the shards that are whole to be written; raise what went wrong in writing."""
        if self._thread is not None:
            self._hand_over(None)
            self._thread.join()
            self._thread = None
        if self._error is not None:
            raise self._error

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        if self._error is None:
            self.finish()


def _token_rows(shard: Shard, prompts: Sequence[int]) -> np.ndarray:
    """Rows within a shard of all tokens of some of its prompts, one prompt after the other."""
    starts = np.cumsum([0, *shard.n_tokens])
    return np.concatenate([np.arange(starts[i], starts[i + 1]) for i in prompts])


def _to_numpy(tensor: torch.Tensor) -> np.ndarray:
    """Float32 (an exact superset of the half types) in host memory."""
    return tensor.detach().cpu().to(torch.float32).numpy()
