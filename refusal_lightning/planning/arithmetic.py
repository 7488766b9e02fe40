"""Floating-point operations of forward passes, a multiplication and an addition counted as two."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from refusal_lightning.planning.model_size import ModelSize


@dataclass(frozen=True)
class Arithmetic:
    """What a model's passes cost."""

    size: ModelSize
    n_layers: int
    attention_width: int
    """Query heads times their dimension."""

    @classmethod
    def of(cls, config: Any, size: ModelSize) -> Arithmetic:
        text = config.get_text_config()
        d_head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        return cls(size, text.num_hidden_layers, text.num_attention_heads * d_head)

    def prompts(self, batches: Iterable[tuple[int, int]], logits: int = 1) -> float:
        """Passes over (rows, tokens per row), padding included, with the logits of the last ``logits`` positions.

        Attention is counted over all pairs of positions, as kernels that mask compute it: at most twice what is needed.
        """
        total = 0.0
        for rows, tokens in batches:
            each = 2.0 * self.size.per_token * tokens + 4.0 * self.n_layers * self.attention_width * tokens**2
            total += rows * (each + 2.0 * self.size.head * logits)
        return total

    def decoding(self, rows: int, prompt: float, new: int) -> float:
        """Steps of one token each, after the prompts."""
        seen = prompt + new / 2
        each = 2.0 * (self.size.per_token + self.size.head) + 4.0 * self.n_layers * self.attention_width * seen
        return rows * new * each
