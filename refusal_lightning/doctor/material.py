"""What the checks look at: the model as the stages use it, and a few prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from refusal_lightning.doctor.readings import Reading, read
from refusal_lightning.models import ChatModel

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

PROBES = ("What is the capital of France?", "Name three birds that live in a garden.", "Write a line about the sea")
"""Neutral instructions of this project, which may be shown, as no instruction of a dataset is."""


@dataclass
class Material:
    """A chat model, where it runs, and token ids of a few harmful and harmless prompts."""

    chat: ChatModel
    device: str | torch.device
    harmful: Sequence[list[int]] = field(repr=False)
    harmless: Sequence[list[int]] = field(repr=False)

    @property
    def prompts(self) -> list[list[int]]:
        return [*self.harmful, *self.harmless]

    @cached_property
    def probes(self) -> list[list[int]]:
        """Token ids of the neutral prompts."""
        return [self.chat.encode(instruction) for instruction in PROBES]

    @property
    def bridge(self) -> TransformerBridge:
        """The model itself; its weights are loaded at the first use."""
        return self.chat.bridge(self.device)

    @property
    def dtype(self) -> torch.dtype:
        return getattr(torch, self.chat.dtype)

    @cached_property
    def alone(self) -> list[Reading]:
        """What each prompt gives alone: what every other way to run it is compared with."""
        return [read(self.bridge, [prompt], self.chat.n_positions)[0] for prompt in self.prompts]
