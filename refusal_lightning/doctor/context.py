"""What the checks look at: the model as the stages use it, and a few prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from refusal_lightning.data.labels import REFUSAL, Labels
from refusal_lightning.doctor.passes import Ablated, Reading, read
from refusal_lightning.interventions import Intervention, intervene
from refusal_lightning.models import ChatModel
from refusal_lightning.models.engines.protocol import Engine
from refusal_lightning.models.tokens import left_pad

PROBES = ("What is the capital of France?", "Name three birds that live in a garden.", "Write a line about the sea")
"""Neutral instructions of this project, which may be shown, as no instruction of a dataset is."""


@dataclass
class CheckContext:
    """A chat model, where it runs, and token ids of a few prompts of both kinds."""

    chat: ChatModel
    device: str | torch.device
    harmful: Sequence[list[int]] = field(repr=False)
    harmless: Sequence[list[int]] = field(repr=False)
    others: Sequence[list[int]] = field(default=(), repr=False)
    """Further prompts of the run: what shortcuts are exact is found once, for the longest of all."""
    ablated: Ablated | None = field(default=None, repr=False)
    """The prompts under ablation of ``direction``, once a check has run them (``ablation.ablated``)."""
    labels: Labels = REFUSAL

    @property
    def prompts(self) -> list[list[int]]:
        return [*self.harmful, *self.harmless]

    @cached_property
    def probes(self) -> list[list[int]]:
        """Token ids of the neutral prompts."""
        return [self.chat.encode(instruction) for instruction in PROBES]

    @property
    def engine(self) -> Engine:
        """What runs the model's passes; its weights are loaded at the first use."""
        return self.chat.engine(self.device)

    @property
    def fast_engine(self) -> Engine:
        """What answers are decoded with; it is made at the first use."""
        return self.chat.fast_engine(self.device)

    @property
    def input_device(self) -> torch.device:
        """Where token ids go: the model may be spread over several devices."""
        return self.engine.input_device

    @property
    def dtype(self) -> torch.dtype:
        return getattr(torch, self.chat.dtype)

    @cached_property
    def alone(self) -> list[Reading]:
        """What each prompt gives alone: what every other way to run it is compared with."""
        return [self.read([prompt])[0] for prompt in self.prompts]

    def read(self, prompts: Sequence[list[int]], pads: int = 0) -> list[Reading]:
        """One pass over prompts, left-padded to the longest and by ``pads`` tokens more."""
        return read(self.engine, prompts, self.chat.n_positions, pads, self.input_device)

    @property
    def middle(self) -> int:
        """The layer in the middle of the model."""
        return self.chat.n_layers // 2

    @cached_property
    def direction(self) -> Float[Tensor, " d_model"]:
        """The prompts' mean difference at the last position of the middle layer, float64 on the CPU.

        Where the prompts do not differ, a direction of chance.
        """
        ends = torch.stack([reading.resid_pre[self.middle, -1].double() for reading in self.alone])
        split = len(self.harmful)
        if 0 < split < len(ends) and bool((difference := ends[:split].mean(0) - ends[split:].mean(0)).any()):
            return difference
        return torch.randn(self.chat.d_model, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def plain_logits(
        self, prompts: Sequence[Sequence[int]], intervention: Intervention, keep: int = 1
    ) -> Float[Tensor, "prompt token vocab"]:
        """Logits at the last tokens of whole prompts, left-padded in one batch, under an intervention; float32 on the
        CPU. That padded is as alone is what ``padding`` and ``batch`` say."""
        ids, mask = (t.to(self.input_device) for t in left_pad(prompts))
        with intervene(self.engine, intervention):
            logits: Tensor = self.engine(ids, attention_mask=mask, logits_to_keep=keep)
        return logits[:, -keep:].float().cpu()
