"""``rl.evaluate``: what ablating or adding a direction does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from refusal_lightning.api.model import Model
from refusal_lightning.api.prompts import NOWHERE, Instruction, data_section, with_test_sets
from refusal_lightning.api.settings import divided, keys_of, section
from refusal_lightning.config import DataConfig, EvaluateConfig
from refusal_lightning.directions.direction import Direction
from refusal_lightning.errors import UserError
from refusal_lightning.judges.config import JudgeSettings
from refusal_lightning.runs.folder import SelectedDirection
from refusal_lightning.stages.evaluate.evaluation import EvaluationResult, evaluate_direction
from refusal_lightning.stages.evaluate.inputs import EvaluationInputs
from refusal_lightning.stages.select.result import SelectionResult

_SETTINGS = tuple(key for key in keys_of(EvaluateConfig) if key not in ("harmful", "harmless"))


def evaluate(
    model: Model,
    direction: Direction | SelectionResult,
    harmful: Iterable[Instruction] | None = None,
    harmless: Iterable[Instruction] | None = None,
    *,
    data: DataConfig | Mapping[str, Any] | None = None,
    **settings: Any,
) -> EvaluationResult:
    """Answer instructions under the baseline, ablation and activation addition, judge the answers, measure losses.

    ``direction`` is one that fits the ``model``, or the result of ``rl.select``. ``harmful`` and ``harmless`` are
    lists of instructions to answer, texts or ``{"instruction": ..., "category": ...}``; all are answered. With
    ``data``, a configuration's data section, they are names of its sets (default: its test splits). Where neither is
    given, the test splits are those of the data that the result was selected with.

    ``settings`` are the keys of the sections evaluate (``interventions``, ``judges``, ``max_new_tokens``, ``losses``,
    ``n_test``, ``sampling`` ...) and judging (``JudgeSettings``). The result has the DataFrames ``rates``,
    ``differences`` and ``losses``, and ``completions(dataset, intervention)``. An interrupted call goes on where it was
    while the model lives. Raises UserError.
    """
    model.require_plain("evaluate")
    made = direction.direction if isinstance(direction, SelectionResult) else direction
    made.require_fits(model)
    parts = divided(settings, {"evaluate": _SETTINGS, "judging": keys_of(JudgeSettings)})
    own = direction.inputs.data if isinstance(direction, SelectionResult) else None
    where, answered = _sets(own, harmful, harmless, data, parts["evaluate"])
    config = section(EvaluateConfig, answered, "evaluate")
    judging = section(JudgeSettings, parts["judging"], "judging")
    chosen = SelectedDirection(made.vector, made.position, made.layer)
    inputs = EvaluationInputs.of(model.chat, lambda: chosen, where, model.trainer, config, judging)
    return evaluate_direction(inputs, model.journals)


def _sets(
    own: DataConfig | None,
    harmful: Iterable[Instruction] | None,
    harmless: Iterable[Instruction] | None,
    data: DataConfig | Mapping[str, Any] | None,
    settings: Mapping[str, Any],
) -> tuple[DataConfig, dict[str, Any]]:
    """The data section, and the settings with the names of the sets to answer in it."""
    if data is not None:
        names = {"harmful": harmful, "harmless": harmless}
        given = {role: list(some) for role, some in names.items() if some is not None}
        return data_section(data), {**settings, **given}
    if harmful is None and harmless is None:
        if own is None or own.root == NOWHERE:
            raise UserError("there is nothing to answer; give lists of harmful and harmless instructions, or data")
        return own, dict(settings)
    base = DataConfig(root=NOWHERE) if own is None else own
    unasked: dict[str, list[str]] = {
        role: [] for role, some in (("harmful", harmful), ("harmless", harmless)) if some is None
    }
    return with_test_sets(base, harmful, harmless), {"n_test": None, **settings, **unasked}
