"""The doctor's checks by name. To add one, add a file beside this one and an entry here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from refusal_lightning.doctor.ablation import check_ablation
from refusal_lightning.doctor.batch import check_batch
from refusal_lightning.doctor.bos import check_beginning
from refusal_lightning.doctor.context import CheckContext
from refusal_lightning.doctor.decoding import check_bridge_decoding, check_decoding, check_harness_decoding
from refusal_lightning.doctor.eoi import check_eoi
from refusal_lightning.doctor.finding import Finding
from refusal_lightning.doctor.hooks import check_hooks
from refusal_lightning.doctor.padding import check_padding
from refusal_lightning.doctor.prefix_sharing import check_continuation
from refusal_lightning.doctor.refusal_tokens import check_refusal
from refusal_lightning.doctor.residual_writes import check_writes
from refusal_lightning.doctor.scoring import check_scores
from refusal_lightning.doctor.stop_tokens import check_stops
from refusal_lightning.doctor.template import check_template
from refusal_lightning.doctor.thinking import check_thinking
from refusal_lightning.registry import Registry


@dataclass(frozen=True)
class Check:
    """One check of a model, and what it needs."""

    run: Callable[[CheckContext], Finding]
    needs_weights: bool = True
    in_float32_too: bool = False
    """Whether it is of rounding, and is run in float32 as well where another dtype is chosen."""


CHECKS: Registry[Check] = Registry(
    "doctor's check",
    {
        "template": Check(check_template, needs_weights=False),
        "beginning": Check(check_beginning, needs_weights=False),
        "eoi": Check(check_eoi, needs_weights=False),
        "stop tokens": Check(check_stops, needs_weights=False),
        "padding": Check(check_padding, in_float32_too=True),
        "batch": Check(check_batch, in_float32_too=True),
        "continuation": Check(check_continuation, in_float32_too=True),
        "writes": Check(check_writes),
        "ablation": Check(check_ablation),
        "scores": Check(check_scores),
        "decoding": Check(check_decoding),
        "answer tokens": Check(check_bridge_decoding),
        "harness decoding": Check(check_harness_decoding),
        "thinking": Check(check_thinking),
        "refusal tokens": Check(check_refusal),
        # The last of ours: a hook that stays on would change the others' figures.
        "hooks": Check(check_hooks),
    },
)
"""By name, in the order in which they are made; those that need no weights come before these are loaded."""
