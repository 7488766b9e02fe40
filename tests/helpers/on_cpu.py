"""Modules on the CPU without a Trainer around them, and what their tests give them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from refusal_lightning.models import ChatModel
from refusal_lightning.modules.generation import GenerationModule
from refusal_lightning.modules.loss import LossModule
from refusal_lightning.modules.scores import RowsOfLogits, ScoredPrompts, ScoreModule

SYSTEM = "You are a careful assistant that answers in a few words."
"""A beginning that prompts share."""


class _OnCpu:
    device = torch.device("cpu")
    input_device = torch.device("cpu")

    @property
    def engine(self) -> Any:
        return self.model.engine("cpu")  # type: ignore[attr-defined]


class Scores(_OnCpu, ScoreModule):
    pass


class Generation(_OnCpu, GenerationModule):
    pass


class Loss(_OnCpu, LossModule):
    pass


def random_directions(chat: ChatModel) -> torch.Tensor:
    """The same ones each time: [position, layer, d_model]."""
    shape = (chat.n_positions, chat.n_layers, chat.d_model)
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def scored(prompts: Sequence[Sequence[int]], baseline: RowsOfLogits | None = None) -> ScoredPrompts:
    """Prompts whose scores have bounds that none reaches."""
    return ScoredPrompts(prompts, (np.full(len(prompts), -20.0), np.full(len(prompts), 20.0)), baseline)
