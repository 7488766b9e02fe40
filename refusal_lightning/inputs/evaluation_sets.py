"""The sets of prompts that are answered: which, how many, and their categories."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from refusal_lightning.config import DataConfig, EvaluateConfig
from refusal_lightning.errors import UserError
from refusal_lightning.inputs.drawing import draw, drawn_by_name
from refusal_lightning.inputs.instructions import plain_name, rows_of
from refusal_lightning.inputs.prompt_warnings import also_drawn
from refusal_lightning.inputs.prompts import PromptSet, prompt_set
from refusal_lightning.models import ChatModel

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EvaluationSet:
    """Prompts to answer, in the place (``role``) of harmful or of harmless ones, with the instructions' categories."""

    role: str
    prompts: PromptSet
    categories: list[str | None]


def evaluation_sets(chat: ChatModel, data: DataConfig, config: EvaluateConfig) -> list[EvaluationSet]:
    """The prompts to answer. Harmless splits are drawn from the same stream as the training prompts, after them.

    Where nothing is drawn, the training prompts are not needed.
    """
    try:
        drawn = draw(data)
    except UserError:
        drawn = None
    sets: list[EvaluationSet] = []
    for role, names in _chosen(data, config).items():
        for name in names:
            file_name = plain_name(name)
            rows: Sequence[dict[str, Any]] = rows_of(name, data)
            whole = [row["instruction"] for row in rows]
            if role == "harmless" and config.n_test is not None and config.n_test < len(rows):
                rows = (drawn or draw(data)).rng.sample(list(rows), config.n_test)
            known = drawn and also_drawn(name, [row["instruction"] for row in rows], drawn_by_name(data, drawn))
            if known:
                log.warning(f"{known}; what is measured on them is no test")
            prompts = prompt_set(file_name, [row["instruction"] for row in rows], chat, whole)
            sets.append(EvaluationSet(role, prompts, [row["category"] for row in rows]))
    return sets


def require_sets(data: DataConfig, config: EvaluateConfig) -> None:
    """Raise UserError where prompts that are to be answered cannot be read; no model is needed."""
    for names in _chosen(data, config).values():
        for name in names:
            rows_of(name, data)


def _chosen(data: DataConfig, config: EvaluateConfig) -> dict[str, list[str]]:
    """The names of the sets by the role that their prompts have. Raises UserError where two would share their files."""
    first, second = (f"{label}_test" for label in data.labels)
    chosen = {
        "harmful": [first] if config.harmful is None else config.harmful,
        "harmless": [second] if config.harmless is None else config.harmless,
    }
    names = [plain_name(name) for some in chosen.values() for name in some]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"evaluate: two sets would both be written as {name}; give one another name in data.sets")
    return chosen
