"""Checks of a user's own model before any number is reported: one file per check, each gives a ``Finding``."""

from __future__ import annotations

from collections.abc import Callable

from refusal_lightning.doctor.ablation import check_ablation
from refusal_lightning.doctor.batch import check_batch
from refusal_lightning.doctor.bos import check_beginning
from refusal_lightning.doctor.context import CheckContext
from refusal_lightning.doctor.decoding import check_bridge_decoding, check_decoding, check_harness_decoding
from refusal_lightning.doctor.eoi import check_eoi
from refusal_lightning.doctor.finding import Finding, Verdict
from refusal_lightning.doctor.hooks import check_hooks
from refusal_lightning.doctor.padding import check_padding
from refusal_lightning.doctor.prefix_sharing import check_continuation
from refusal_lightning.doctor.refusal_tokens import check_refusal
from refusal_lightning.doctor.residual_writes import check_writes
from refusal_lightning.doctor.scoring import check_scores
from refusal_lightning.doctor.stop_tokens import check_stops
from refusal_lightning.doctor.template import check_template
from refusal_lightning.doctor.thinking import check_thinking

Check = Callable[[CheckContext], Finding]

PROMPT_CHECKS: dict[str, Check] = {
    "template": check_template,
    "beginning": check_beginning,
    "eoi": check_eoi,
    "stop tokens": check_stops,
}
"""By name; these need no weights."""

ROUNDING_CHECKS: dict[str, Check] = {
    "padding": check_padding,
    "batch": check_batch,
    "continuation": check_continuation,
}
"""These run the model, and are run in float32 too where another dtype is chosen."""

MODEL_CHECKS: dict[str, Check] = {
    **ROUNDING_CHECKS,
    "writes": check_writes,
    "ablation": check_ablation,
    "scores": check_scores,
    "decoding": check_decoding,
    "answer tokens": check_bridge_decoding,
    "harness decoding": check_harness_decoding,
    "thinking": check_thinking,
    "refusal tokens": check_refusal,
    "hooks": check_hooks,
}
"""These run the model in the chosen dtype; the hooks come last, since one that stays on would change the others."""

__all__ = ["MODEL_CHECKS", "PROMPT_CHECKS", "ROUNDING_CHECKS", "Check", "CheckContext", "Finding", "Verdict"]
