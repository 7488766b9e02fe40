"""doctor: check the user's own model before any number is reported."""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from refusal_lightning.config import DataConfig, DoctorConfig, ModelConfig, TrainerConfig
from refusal_lightning.data.datasets import ROLES
from refusal_lightning.data.labels import Labels
from refusal_lightning.errors import UserError
from refusal_lightning.inputs.drawing import draw
from refusal_lightning.inputs.model import open_model
from refusal_lightning.io.console import is_main_process
from refusal_lightning.io.files import writable_folder
from refusal_lightning.io.serialization import write_json
from refusal_lightning.io.versions import package_versions

if TYPE_CHECKING:
    from refusal_lightning.doctor.examination import DoctorInputs, DoctorResult

log = logging.getLogger(__name__)


def doctor(model: ModelConfig, data: DataConfig, trainer: TrainerConfig, doctor: DoctorConfig) -> int:
    """Make every check and say what it found, one line each. Returns the exit status: 1 if a check fails, else 0."""
    if not is_main_process():
        return 0
    if doctor.out is not None:
        _require_file(doctor.out)
    inputs = _open(model, data, trainer, doctor.n_prompts)
    from refusal_lightning.doctor.examination import examine  # slow to import; mistakes are said before

    result = examine(inputs, on_finding=lambda finding: log.info(finding.text()))
    n_failed = result.count("fail")
    log.info(
        f"doctor: {len(result.findings)} checks, {n_failed} failed, {result.count('warn')} warnings, "
        f"{result.seconds:.0f} s"
    )
    if doctor.out is not None:
        _write(Path(doctor.out), model.name, inputs, result)
        log.info(f"doctor: wrote {doctor.out}")
    return 1 if n_failed else 0


def _require_file(out: str) -> None:
    """Raise UserError where no file of this name can be written."""
    if Path(out).is_dir():
        raise UserError(f"doctor.out: {out!r} is a folder; give a file's name")
    writable_folder(Path(out).parent, "doctor.out")


def _open(model: ModelConfig, data: DataConfig, trainer: TrainerConfig, n_prompts: int) -> DoctorInputs:
    """The model without its weights, and the first prompts drawn; said in a line."""
    chat = open_model(model, trainer)
    drawn = draw(data)
    harmful, harmless = (
        [chat.encode(instruction) for instruction in instructions[:n_prompts]]
        for instructions in (drawn.harmful_train, drawn.harmless_train)
    )
    from refusal_lightning.distributed.trainer import main_device
    from refusal_lightning.doctor.examination import DoctorInputs

    device = main_device(trainer)
    kinds = [
        f"{len(prompts)} {role if label == role else f'{label} (as {role})'}"
        for prompts, label, role in zip((harmful, harmless), data.labels, ROLES, strict=True)
    ]
    log.info(f"doctor: {model.name} in {chat.dtype} on {device}, {' and '.join(kinds)} prompts")
    return DoctorInputs(chat, device, harmful, harmless, Labels.of(data.labels))


def _write(path: Path, name: str, inputs: DoctorInputs, result: DoctorResult) -> None:
    """The findings as JSON, with what they are of."""
    report = {
        "model": name,
        "identity": inputs.chat.identity,
        "device": str(inputs.device),
        "prompts": {"harmful": len(inputs.harmful), "harmless": len(inputs.harmless)},
        "packages": package_versions(),
        "seconds": result.seconds,
        "findings": [asdict(finding) for finding in result.findings],
    }
    write_json(path, report)
