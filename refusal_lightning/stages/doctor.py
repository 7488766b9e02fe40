"""doctor: check the user's own model before any number is reported."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from refusal_lightning.config import DataConfig, DoctorConfig, ModelConfig, TrainerConfig
from refusal_lightning.data.datasets import ROLES
from refusal_lightning.errors import UserError
from refusal_lightning.inputs.drawing import draw
from refusal_lightning.inputs.model import open_model
from refusal_lightning.io.console import is_main_process
from refusal_lightning.io.files import writable_folder
from refusal_lightning.io.serialization import write_json
from refusal_lightning.io.text import one_line
from refusal_lightning.io.versions import package_versions
from refusal_lightning.models import ChatModel

if TYPE_CHECKING:
    import torch

    from refusal_lightning.doctor import Finding
    from refusal_lightning.doctor.passes import Reading

log = logging.getLogger(__name__)


def doctor(model: ModelConfig, data: DataConfig, trainer: TrainerConfig, doctor: DoctorConfig) -> int:
    """Run every check and say what it found, one line each. Returns the exit status: 1 if a check fails, else 0."""
    if not is_main_process():
        return 0
    if doctor.out is not None:
        if Path(doctor.out).is_dir():
            raise UserError(f"doctor.out: {doctor.out!r} is a folder; give a file's name")
        writable_folder(Path(doctor.out).parent, "doctor.out")
    started = time.perf_counter()
    chat = open_model(model, trainer)
    drawn = draw(data)
    harmful, harmless = (
        [chat.encode(instruction) for instruction in instructions[: doctor.n_prompts]]
        for instructions in (drawn.harmful_train, drawn.harmless_train)
    )
    from refusal_lightning.distributed.trainer import main_device

    device = main_device(trainer)
    kinds = [
        f"{len(prompts)} {role if label == role else f'{label} (as {role})'}"
        for prompts, label, role in zip((harmful, harmless), data.labels, ROLES, strict=True)
    ]
    log.info(f"doctor: {model.name} in {chat.dtype} on {device}, {' and '.join(kinds)} prompts")
    findings = _examine(chat, device, harmful, harmless)
    seconds = time.perf_counter() - started
    n_failed, n_warned = (sum(f.verdict == verdict for f in findings) for verdict in ("fail", "warn"))
    log.info(f"doctor: {len(findings)} checks, {n_failed} failed, {n_warned} warnings, {seconds:.0f} s")
    if doctor.out is not None:
        report = {
            "model": model.name,
            "identity": chat.identity,
            "device": str(device),
            "prompts": {"harmful": len(harmful), "harmless": len(harmless)},
            "packages": package_versions(),
            "seconds": seconds,
            "findings": [asdict(f) for f in findings],
        }
        write_json(Path(doctor.out), report)
        log.info(f"doctor: wrote {doctor.out}")
    return 1 if n_failed else 0


def _examine(
    chat: ChatModel, device: torch.device, harmful: list[list[int]], harmless: list[list[int]]
) -> list[Finding]:
    """All findings, each said when it is there; where the dtype is not float32, with a second copy in float32."""
    import gc

    import torch

    from refusal_lightning.doctor import MODEL_CHECKS, PROMPT_CHECKS, ROUNDING_CHECKS, CheckContext, Finding
    from refusal_lightning.doctor.memory import free_memory
    from refusal_lightning.doctor.precision import check_precision

    findings: list[Finding] = []
    broken: list[str] = []

    def examine(name: str, check: Callable[[], Finding]) -> None:
        try:
            with torch.inference_mode():
                finding = check()
        except Exception as error:  # a check that breaks is a finding too, and the others still have their say
            text = one_line(error)[:300]
            advice = f"the check itself ended in {type(error).__name__}: {text}"
            broken.append(name)
            finding = Finding(name, "could not be checked", None, 0.0, "fail", advice)
        findings.append(finding)
        log.info(finding.text())

    def in_chosen_dtype() -> tuple[list[Reading], int]:
        """Run all checks. Returns what is to be compared with float32, if anything, and the number of weights.

        The model itself is let go at the end.
        """
        material = CheckContext(replace(chat), device, harmful, harmless)
        for name, check in PROMPT_CHECKS.items():
            examine(name, lambda: check(material))  # noqa: B023
        n_weights = sum(p.numel() for p in material.bridge.original_model.parameters())
        for name, check in MODEL_CHECKS.items():
            examine(name, lambda: check(material))  # noqa: B023
        compare = chat.dtype != "float32" and not broken
        return (material.alone if compare else []), n_weights

    chosen, n_weights = in_chosen_dtype()
    if not chosen:
        return findings
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    needed, free = int(n_weights * 4 * 1.2), free_memory(device)
    if free is None or free < needed:
        there = "it is not known how much is" if free is None else f"{free / 1e9:.1f} GB are"
        advice = f"skipped: a copy in float32 takes about {needed / 1e9:.1f} GB, and {there} free"
        findings.append(Finding("precision", f"{chat.dtype} against float32", None, 0.0, "warn", advice))
        log.info(findings[-1].text())
        return findings
    material = CheckContext(replace(chat, dtype="float32"), device, harmful, harmless)
    for name, check in ROUNDING_CHECKS.items():
        examine(name, lambda: check(material))  # noqa: B023
    examine("precision", lambda: check_precision(material, chosen, chat.dtype))
    return findings
