"""How long the prompts and texts of a run are: all that an estimate knows of them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from refusal_lightning.config import CacheConfig, DataConfig, EvaluateConfig, PlanConfig
from refusal_lightning.data.loss_sets import of_the_baseline
from refusal_lightning.data.tables import is_table
from refusal_lightning.inputs.activations import records_of
from refusal_lightning.inputs.drawing import drawn_sets
from refusal_lightning.inputs.evaluation_sets import evaluation_sets
from refusal_lightning.inputs.instructions import instructions_of
from refusal_lightning.inputs.loss_texts import read_loss_sets, text_source
from refusal_lightning.inputs.prompts import PromptSet, prompt_set
from refusal_lightning.models import ChatModel


@dataclass(frozen=True)
class LossSpans:
    """The texts whose loss is measured."""

    sets: list[list[tuple[int, int]]]
    """Of each set that is at hand: tokens of a text, and the first one whose prediction counts."""
    of_the_baseline: bool
    """Whether the loss of the answers to harmless prompts is measured too."""
    elsewhere: int
    """Sets that would be downloaded."""


@dataclass(frozen=True)
class Lengths:
    """Tokens of each prompt, by what it is for."""

    cached: list[int]
    """Shortest first."""
    harmful_val: list[int]
    harmless_val: list[int]
    answered: list[int]
    answered_harmless: list[int]
    """Those of ``answered`` that are harmless."""
    losses: LossSpans


def read_lengths(
    chat: ChatModel, data: DataConfig, cache: CacheConfig, evaluate: EvaluateConfig, plan: PlanConfig
) -> Lengths:
    """Draw and tokenise what the stages would."""
    sets = drawn_sets(chat, data)
    answered = evaluation_sets(chat, data, evaluate)
    return Lengths(
        cached=_cached(chat, sets, data, cache, plan),
        harmful_val=_of(sets["harmful_val"]),
        harmless_val=_of(sets["harmless_val"]),
        answered=[n for item in answered for n in _of(item.prompts)],
        answered_harmless=[n for item in answered if item.role == "harmless" for n in _of(item.prompts)],
        losses=_loss_spans(chat, data, evaluate),
    )


def _of(prompts: PromptSet) -> list[int]:
    return [len(ids) for ids in prompts.token_ids]


def _cached(
    chat: ChatModel, drawn: dict[str, PromptSet], data: DataConfig, cache: CacheConfig, plan: PlanConfig
) -> list[int]:
    if plan.n_prompts is not None:
        return [plan.prompt_tokens] * plan.n_prompts
    sets = dict(drawn)
    for name in cache.datasets:
        sets[name] = prompt_set(name, instructions_of(name, data), chat)
    return [record.n_tokens for record in records_of(sets.values(), data.labels)]


def _loss_spans(chat: ChatModel, data: DataConfig, evaluate: EvaluateConfig) -> LossSpans:
    own = [name for name in evaluate.losses if of_the_baseline(name)]
    here = [name for name in evaluate.losses if is_table(text_source(name, data).source)]
    sets = [
        [(len(text.ids), text.first) for text in texts]
        for texts in read_loss_sets(chat, data, replace(evaluate, losses=here)).values()
    ]
    return LossSpans(sets, bool(own), len(evaluate.losses) - len(here) - len(own))
