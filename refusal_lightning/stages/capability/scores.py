"""The scores of the tasks under each intervention."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refusal_lightning.doctor.hook_proof import HookProof
from refusal_lightning.interventions import BASELINE
from refusal_lightning.stages.capability.harness import run_tasks
from refusal_lightning.stages.capability.inputs import CapabilityInputs

log = logging.getLogger(__name__)

Scores = dict[str, Any]
"""Of one intervention: ``run_tasks``."""


@dataclass(frozen=True)
class CapabilityResult:
    """What the harness measured."""

    inputs: CapabilityInputs
    scores: Mapping[str, Scores]
    """By intervention."""
    n_computed: int
    """Interventions whose tasks were run now; the other scores were there."""
    seconds: float
    """How long these took."""
    n_questions: int
    """What was asked meanwhile, over all interventions and tasks."""
    hooks_proved: dict[str, Any] | None
    """What was compared before the work, see ``HookProof``."""


def measure_capability(
    inputs: CapabilityInputs, journals: Path, known: Mapping[str, Scores], keep: Callable[[str, Scores], None]
) -> CapabilityResult:
    """Run the tasks under each intervention whose scores are not ``known``.

    ``keep(name, scores)`` hears of each as soon as they are there, so that a kill costs one intervention at most.
    Raises UserError.
    """
    proof = HookProof("capability", inputs.chat, journals, ["harness"])
    scores: dict[str, Scores] = {}
    seconds, n_questions = 0.0, 0
    for name, acting in inputs.acting.items():
        if name in known:
            scores[name] = known[name]
        else:
            from refusal_lightning.distributed.trainer import main_device

            log.info(f"capability: {', '.join(inputs.config.tasks)} under {name}")
            engine = inputs.chat.fast_engine(main_device(inputs.trainer))
            started = time.perf_counter()
            scores[name] = run_tasks(engine, inputs.chat, acting.intervention, inputs.config, inputs.task_manager)
            seconds += time.perf_counter() - started
            n_questions += sum(scores[name]["samples"].values())
        keep(name, scores[name])
    return CapabilityResult(
        inputs, scores, len(scores.keys() - known.keys()), seconds, n_questions, hooks_proved=proof.figures()
    )


def table(found: Mapping[str, Scores]) -> str:
    """For the terminal: a line per task and metric; interventions with their difference from the baseline."""
    first = next(iter(found.values()))
    lines = [f"{'':40}" + "".join(f"{name:>24}" for name in found)]
    for task, metrics in first["tasks"].items():
        for metric in metrics:
            if metric.endswith("_stderr"):
                continue
            cells = []
            for name, entry in found.items():
                value = entry["tasks"][task][metric]
                error = entry["tasks"][task].get(f"{metric}_stderr")
                cell = f"{value:.3f}" + (f" ± {error:.3f}" if error is not None else "")
                if name != BASELINE.name and BASELINE.name in found:
                    cell += f" ({value - found[BASELINE.name]['tasks'][task][metric]:+.3f})"
                cells.append(f"{cell:>24}")
            lines.append(f"{f'{task}, {metric}':40}" + "".join(cells))
    return "\n".join(lines)
