"""How far rounding alone may carry a figure: a multiple of the dtype's epsilon, growing with depth.

Each of a model's 2 L writes into the residual stream rounds it once more, by up to half an epsilon of its size. The
errors are as good as independent, so together they grow with the square root of their number. Floors keep float32's
bounds above what kernels for other shapes (which sum in another order) do, and far below any fault's effect.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch

from refusal_lightning.doctor.finding import Verdict


def pass_bound(dtype: torch.dtype, n_layers: int) -> float:
    """For two ways to run one prompt (``readings.difference``).

    Twice the stream's own rounding, for what happens between writes: attention and MLP compute in the dtype too.
    """
    return max(1e-4, 2 * torch.finfo(dtype).eps * math.sqrt(2 * n_layers))


def projection_bound(dtype: torch.dtype, n_layers: int) -> float:
    """For what is left of an ablated direction, relative to the largest stream that was rounded on the way."""
    return max(1e-5, torch.finfo(dtype).eps * math.sqrt(2 * n_layers))


def projection_floor(dtype: torch.dtype) -> float:
    """The same for a single rounding: below, a projection says nothing."""
    return max(1e-5, torch.finfo(dtype).eps)


def sum_bound(dtype: torch.dtype) -> float:
    """For one block's sum of three terms, relative to the largest of them: four roundings at most."""
    return max(1e-5, 4 * torch.finfo(dtype).eps)


def judge_prompts(figures: Sequence[float], bound: float, dtype: torch.dtype) -> Verdict:
    """Verdict over prompts: in float32 all must hold; in half precision a minority may pass the bound with a warning.

    A router that chooses experts, or a near-tie in attention, turns half precision's rounding into a jump for single
    prompts; a fault of masks or positions shows in most. NaN and infinity fail.
    """
    over = sum(not figure <= bound for figure in figures)
    if not over:
        return "ok"
    broken = not all(math.isfinite(figure) for figure in figures)
    half = torch.finfo(dtype).bits == 16
    return "fail" if broken or not half or 2 * over > len(figures) else "warn"


def judge_groups(groups: Iterable[Sequence[float]], bound: float, dtype: torch.dtype) -> Verdict:
    """The worst verdict over groups of prompts: a fault of one kind of passes is no minority of all of them."""
    verdicts = [judge_prompts(figures, bound, dtype) for figures in groups]
    return "fail" if "fail" in verdicts else "warn" if "warn" in verdicts else "ok"


def advice(verdict: Verdict, dtype: str, wrong: str) -> str:
    """What to tell the user of a verdict over prompts: ``wrong`` where it fails."""
    if verdict == "ok":
        return ""
    if verdict == "warn":
        return f"only few prompts are over: {dtype} rounds them to another side; model.dtype: float32 is steadier"
    return wrong
