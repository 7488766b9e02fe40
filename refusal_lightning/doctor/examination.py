"""All checks of a model, one after the other."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch

from refusal_lightning.data.labels import REFUSAL, Labels
from refusal_lightning.doctor import memory as memory_of
from refusal_lightning.doctor.context import CheckContext
from refusal_lightning.doctor.finding import Finding, Verdict
from refusal_lightning.doctor.passes import Reading
from refusal_lightning.doctor.precision import check_precision
from refusal_lightning.doctor.registry import CHECKS
from refusal_lightning.io.text import one_line
from refusal_lightning.models import ChatModel


@dataclass(frozen=True)
class DoctorInputs:
    """A model, where it runs, and prompts to check it with."""

    chat: ChatModel
    device: torch.device
    harmful: Sequence[list[int]] = field(repr=False)
    """Token ids."""
    harmless: Sequence[list[int]] = field(repr=False)
    labels: Labels = REFUSAL


@dataclass(frozen=True)
class DoctorResult:
    """What the checks found, in the order in which they were made."""

    findings: tuple[Finding, ...]
    seconds: float

    def count(self, verdict: Verdict) -> int:
        """Findings of this verdict."""
        return sum(finding.verdict == verdict for finding in self.findings)


def examine(inputs: DoctorInputs, on_finding: Callable[[Finding], None] = lambda finding: None) -> DoctorResult:
    """Make every check; where the dtype is not float32, some again with a second copy in float32, and compare.

    ``on_finding`` hears each finding when it is there.
    """
    started = time.perf_counter()
    made = _Findings(on_finding)
    chosen, n_weights = _in_chosen_dtype(inputs, made)
    if chosen:
        _in_float32(inputs, chosen, n_weights, made)
    return DoctorResult(tuple(made.findings), time.perf_counter() - started)


class _Findings:
    """What was found so far."""

    def __init__(self, on_finding: Callable[[Finding], None]) -> None:
        self.findings: list[Finding] = []
        self.one_broke = False
        self._on_finding = on_finding

    def check(self, name: str, check: Callable[[], Finding]) -> None:
        """Make a check."""
        try:
            with torch.inference_mode():
                finding = check()
        except Exception as error:  # a check that breaks is a finding too, and the others still have their say
            advice = f"the check itself ended in {type(error).__name__}: {one_line(error)[:300]}"
            self.one_broke = True
            finding = Finding(name, "could not be checked", None, 0.0, "fail", advice)
        self.add(finding)

    def add(self, finding: Finding) -> None:
        """Keep a finding, and say it."""
        self.findings.append(finding)
        self._on_finding(finding)


def _in_chosen_dtype(inputs: DoctorInputs, made: _Findings) -> tuple[list[Reading], int]:
    """Make all checks. Returns what is to be compared with float32, if anything, and the number of weights.

    The model itself is let go where a copy in float32 is to be compared with it.
    """
    context = CheckContext(inputs.chat, inputs.device, inputs.harmful, inputs.harmless, labels=inputs.labels)
    for name, check in CHECKS.items():
        if not check.needs_weights:
            made.check(name, partial(check.run, context))
    n_weights = sum(p.numel() for p in context.engine.model.parameters())
    for name, check in CHECKS.items():
        if check.needs_weights:
            made.check(name, partial(check.run, context))
    if inputs.chat.dtype == "float32" or made.one_broke:
        return [], n_weights
    readings = context.alone
    inputs.chat.release()
    return readings, n_weights


def _in_float32(inputs: DoctorInputs, chosen: list[Reading], n_weights: int, made: _Findings) -> None:
    """Make the checks of rounding in float32, and compare; where memory has no room for that copy, say so."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    dtype = inputs.chat.dtype
    needed, free = int(n_weights * 4 * 1.2), memory_of.free_memory(inputs.device)
    if free is None or free < needed:
        there = "it is not known how much is" if free is None else f"{free / 1e9:.1f} GB are"
        advice = f"skipped: a copy in float32 takes about {needed / 1e9:.1f} GB, and {there} free"
        made.add(Finding("precision", f"{dtype} against float32", None, 0.0, "warn", advice))
        return
    context = CheckContext(inputs.chat.in_dtype("float32"), inputs.device, inputs.harmful, inputs.harmless)
    for name, check in CHECKS.items():
        if check.in_float32_too:
            made.check(name, partial(check.run, context))
    made.check("precision", lambda: check_precision(context, chosen, dtype))
