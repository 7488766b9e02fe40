"""The chosen dtype against float32."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from refusal_lightning.doctor.bounds import pass_bound
from refusal_lightning.doctor.context import CheckContext
from refusal_lightning.doctor.finding import Finding
from refusal_lightning.doctor.padding import worst
from refusal_lightning.doctor.passes import Reading, relative_change


def check_precision(material: CheckContext, chosen: Sequence[Reading], dtype: str) -> Finding:
    """Next-token logits of every prompt alone, ``chosen`` in the chosen dtype, against ``material``'s in float32."""
    figures = [relative_change(one.logits, other.logits) for one, other in zip(chosen, material.alone, strict=True)]
    figure, bound = worst(figures), pass_bound(getattr(torch, dtype), material.chat.n_layers)
    advice = ""
    if not math.isfinite(figure):
        advice = f"{dtype} gives NaN or infinity: use bfloat16 (which has float32's range) or float32 in model.dtype"
    elif not figure <= bound:
        advice = f"{dtype} moves this model's logits by more than its rounding explains; prefer model.dtype: float32"
    return Finding(
        "precision",
        f"{len(figures)} prompts, each alone, in {dtype} and in float32: logits, relative",
        figure,
        bound,
        "fail" if not math.isfinite(figure) else "warn" if advice else "ok",
        advice,
    )
