"""How many rows to decode at a time: as many as memory holds, up to where more bring nothing."""

from __future__ import annotations

from typing import Any

import torch

from refusal_lightning.inference.continuous_batching import PROMPT_TOKENS
from refusal_lightning.inference.host_memory import host_memory
from refusal_lightning.inference.kv_cache import SLACK

MOST = {"cpu": 96, "cuda": 384}
"""Beyond, a CPU is busy with arithmetic, and a GPU's unit of work would take too long to lose."""
SHARE = {"cpu": 0.5, "cuda": 0.85}
"""Share of the device's memory to plan with; the rest is for what the estimate does not know."""


def rows_that_fit(model: Any, longest: int, processes: int = 1) -> int:
    """Rows of up to ``longest`` tokens (prompt and answer) that the model's device holds, at least 1.

    The device's whole memory counts, not what happens to be free, so one machine always gives the same batches; on a
    CPU it is shared by so many processes.
    """
    weight = model.get_input_embeddings().weight
    kind = weight.device.type
    gpu = kind == "cuda"
    total = torch.cuda.get_device_properties(weight.device).total_memory if gpu else host_memory() // processes
    weights = sum(parameter.nbytes for parameter in model.parameters())
    return rows_in(total, kind, weights, model.config.get_text_config(), longest, weight.itemsize)


def rows_in(total: float, kind: str, weights: float, config: Any, longest: int, itemsize: int) -> int:
    """The same for a device of this kind with so many bytes, and a model of this (text) configuration."""
    # A pass over prompts: queries, keys, values, the MLP's middle, and copies of the stream.
    prompts = PROMPT_TOKENS * (12 * config.hidden_size + 3 * _widest(config)) * itemsize
    free = SHARE.get(kind, 0.5) * total - weights - prompts
    return max(1, min(MOST.get(kind, 96), int(free // row_bytes(config, longest, itemsize))))


def row_bytes(config: Any, longest: int, itemsize: int) -> int:
    """Bytes of a row: keys and values of every layer, twice for one layer's copies, and its logits."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    d_head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    column = 2 * heads * d_head * itemsize
    # Attention may repeat a layer's keys and values for every query head, and holds its scores in float32.
    repeated = 2 * config.num_attention_heads * d_head * itemsize + 8 * config.num_attention_heads
    return (longest + SLACK) * (config.num_hidden_layers * column + repeated) + config.vocab_size * (itemsize + 12)


def _widest(config: Any) -> int:
    sizes = (getattr(config, name, None) or 0 for name in ("intermediate_size", "moe_intermediate_size"))
    return max(*sizes, 4 * config.hidden_size)
