"""Answers of a judging model on this machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch

Responder = Callable[[Sequence[Any]], list[str]]
"""Texts that a loaded judging model gives to questions, in order."""


@dataclass
class Questions:
    """Questions to ask together, and the keys under which their answers are kept."""

    keys: list[str]
    questions: list[Any]


class JudgingModule(L.LightningModule):
    """``predict_step`` asks a batch of questions; ``load(device)`` gives the model when the loop starts."""

    def __init__(self, load: Callable[[torch.device], Responder]) -> None:
        super().__init__()
        self._load = load
        self._answer: Responder | None = None

    def setup(self, stage: str) -> None:
        self._answer = self._load(self.trainer.strategy.root_device)

    def predict_step(self, batch: Questions, batch_idx: int = 0) -> tuple[list[str], list[str]]:
        """Keys and answers."""
        assert self._answer is not None
        return batch.keys, self._answer(batch.questions)
