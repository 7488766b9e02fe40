"""Memory of a process, in bytes."""

from __future__ import annotations

from typing import Any

from refusal_lightning.inference.batch_size import row_bytes
from refusal_lightning.planning.model_size import ModelSize

LIBRARIES = 0.70e9
"""What a process takes of memory beside weights and passes: all that is imported, the modules, Lightning's
loop (measured on Linux with torch's CPU build)."""
SHARDS = 4
"""Shards that a process that caches holds at most: one is gathered, one waits, one is written, and its bytes."""
ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def weight_bytes(size: ModelSize, dtype: str) -> int:
    """The model itself."""
    return size.total * ITEM_BYTES[dtype]


def pass_bytes(config: Any, rows: int, tokens: int, dtype: str) -> int:
    """What a forward pass over prompts holds at its widest: stream, queries, keys, values, the MLP's middle."""
    text = config.get_text_config()
    width = 12 * text.hidden_size + 3 * (getattr(text, "intermediate_size", None) or 4 * text.hidden_size)
    return rows * (tokens * width * ITEM_BYTES[dtype] + text.vocab_size * 4)


def loss_bytes(config: Any, rows: int, tokens: int, dtype: str) -> int:
    """What a pass that makes the logits of ``tokens`` positions per row holds beside ``pass_bytes``: them twice as they
    are made and twice in float64."""
    return rows * tokens * config.get_text_config().vocab_size * 2 * (8 + ITEM_BYTES[dtype])


def head_copies(size: ModelSize, rows: int, dtype: str) -> int:
    """What torch adds on a CPU in a half type: it multiplies each row's last position with a copy of the LM head."""
    return 0 if dtype == "float32" else rows * size.head * ITEM_BYTES[dtype]


def answer_bytes(config: Any, rows: int, longest: int, dtype: str) -> int:
    """What rows of up to ``longest`` tokens, prompt and answer, hold while they are decoded."""
    return rows * row_bytes(config.get_text_config(), longest, ITEM_BYTES[dtype])
