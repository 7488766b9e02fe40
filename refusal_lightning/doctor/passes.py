"""What a pass leaves of a prompt, read as `cache` reads it, and how far two passes are apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from refusal_lightning.interventions import record_activations
from refusal_lightning.models.engines.protocol import Engine
from refusal_lightning.models.tokens import left_pad


@dataclass(frozen=True)
class Reading:
    """One prompt's next-token logits and its ``resid_pre`` at the eoi positions, float32 on the CPU."""

    logits: Float[Tensor, " vocab"]
    resid_pre: Float[Tensor, "layer position d_model"]


@dataclass(frozen=True)
class Ablated:
    """One plain pass over prompts under ablation: their next-token logits, float32 on the CPU, and what is left."""

    logits: Float[Tensor, "prompt vocab"]
    projection: float
    """The largest projection on the ablated direction, relative to the stream."""


def read(
    engine: Engine, prompts: Sequence[list[int]], n_positions: int, pads: int, device: torch.device
) -> list[Reading]:
    """One pass over prompts, left-padded to the longest and by ``pads`` tokens more; their ids go to the device."""
    ids, mask = left_pad(prompts)
    ids, mask = (torch.nn.functional.pad(t, (pads, 0)).to(device) for t in (ids, mask))
    layers = range(engine.n_layers)
    with record_activations(engine, ["resid_pre"], layers, lambda x: x[:, -n_positions:].float().cpu()) as captured:
        logits = engine(ids, attention_mask=mask, logits_to_keep=1)[:, -1].float().cpu()
    resid_pre = torch.stack([captured["resid_pre", layer] for layer in layers], dim=1)
    return [Reading(logits[row], resid_pre[row]) for row in range(len(prompts))]


def difference(one: Reading, other: Reading) -> float:
    """How far two readings of a prompt are apart, relative to the other one's size; NaN if either has a NaN.

    The larger of two: the change of the logits, and the largest change of an activation vector, in its own norm.
    """
    vectors = (one.resid_pre - other.resid_pre).norm(dim=-1) / other.resid_pre.norm(dim=-1).clamp(min=1e-30)
    return float(torch.stack([vectors.max(), torch.tensor(relative_change(one.logits, other.logits))]).max())


def relative_change(logits: Float[Tensor, " vocab"], others: Float[Tensor, " vocab"]) -> float:
    """The norm of the logits' change, relative to that of the other ones; both about their means.

    A constant added to all logits means nothing. Not the largest change of a single logit: in half precision the
    largest of 100,000 rounding errors is as large as a fault.
    """
    # A vocabulary's unused end may be masked with -inf, in both alike.
    same = logits.isneginf() & others.isneginf()
    change, size = (logits - others)[~same].double(), others[~same].double()
    return float((change - change.mean()).norm() / (size - size.mean()).norm())
