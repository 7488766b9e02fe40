"""Answers are decoded as whole passes would have it: at the prompt, and at the step after it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from refusal_lightning.doctor.bounds import advice, judge_groups, pass_bound
from refusal_lightning.doctor.context import CheckContext
from refusal_lightning.doctor.finding import Finding
from refusal_lightning.doctor.padding import worst
from refusal_lightning.doctor.passes import relative_change
from refusal_lightning.inference.decoding import StoppingRule, decode_batch
from refusal_lightning.inference.sampling import Sampling
from refusal_lightning.inference.shortcuts import shares_exactly
from refusal_lightning.interventions import BASELINE, Intervention, ablation, addition, intervene
from refusal_lightning.models.engines.protocol import Engine
from refusal_lightning.models.tokens import left_pad
from refusal_lightning.modules.generation import GenerationBatch, GenerationModule, decodes_apart

_WRONG = (
    "answers would be wrong: a decoding step, with its cache, mask, positions and hooks, is not what a whole "
    "pass gives on this architecture. Use another model or other versions of transformers and TransformerLens, "
    "and report it with the architecture"
)
_STEPS = 2
"""The prompt, and one token after it."""


@dataclass(frozen=True)
class _Recorder(Sampling):
    """Takes the likeliest token that does not end the answer, and notes it and the logits, by row, one per step.

    As a row's random numbers it hands out the row's own number, by which it knows the row.
    """

    stop_ids: Int[Tensor, " stop"]
    logits: dict[int, list[Tensor]] = field(default_factory=lambda: defaultdict(list))
    tokens: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))

    def draws(self, prompt_hash: str, intervention: str, n: int) -> Float[Tensor, " token"]:
        return torch.full((n,), float(prompt_hash), dtype=torch.float64)

    def choose(self, logits: Float[Tensor, "row vocab"], draws: Float[Tensor, " row"]) -> Int[Tensor, " row"]:
        going_on = logits.clone()
        going_on[:, self.stop_ids.to(logits.device)] = -torch.inf  # an answer that ends has no step
        chosen = going_on.argmax(-1)
        for name, of_row, token in zip(draws.tolist(), logits.float().cpu(), chosen.tolist(), strict=True):
            self.logits[int(name)].append(of_row)
            self.tokens[int(name)].append(token)
        return chosen


def check_decoding(material: CheckContext) -> Finding:
    """As `evaluate` decodes: the model that it decodes with, rows of all interventions in one batch, and its cache.

    Prompts take turns under ablation, addition and no intervention, so a batch has all that there are.
    """
    chat, direction = material.chat, material.direction
    interventions = [ablation(direction), addition(direction, material.middle, -1.0), BASELINE]
    numbers = [i % len(interventions) for i in range(len(material.prompts))]
    engine = material.fast_engine
    if not decodes_apart(chat, engine):
        everything = [*material.prompts, *material.others]
        shares_exactly(engine.model, everything, material.input_device)
    recorder = _recorder(material)
    module = GenerationModule(chat, interventions, _STEPS, len(numbers), recorder).to(material.device)
    names = [str(row) for row in range(len(numbers))]
    module.predict_step(GenerationBatch(names, material.prompts, names, numbers))
    compared = f"{len(numbers)} answers begun as `evaluate` does ({engine.kind}), against whole passes: logits"
    return _finding("decoding", compared, material, recorder, [interventions[number] for number in numbers])


def check_bridge_decoding(material: CheckContext) -> Finding:
    """As the baseline's answers are decoded whose KL `select` takes: the bridge itself, and the model's own cache."""
    return _with_own_cache(material, material.engine, "answer tokens", "the KL of answers does")


def check_harness_decoding(material: CheckContext) -> Finding:
    """As a harness decodes for `capability`: the model that `evaluate` decodes with, and the model's own cache."""
    return _with_own_cache(material, material.fast_engine, "harness decoding", "a harness does")


def _recorder(material: CheckContext) -> _Recorder:
    return _Recorder(1.0, 1.0, 0, torch.tensor(material.chat.stop_ids, dtype=torch.long))


def _with_own_cache(material: CheckContext, engine: Engine, name: str, as_who: str) -> Finding:
    change = ablation(material.direction)
    ids, mask = (t.to(material.input_device) for t in left_pad(material.prompts))
    recorder = _recorder(material)

    def choose(logits: Float[Tensor, "row vocab"], rows: list[int], step: int) -> Int[Tensor, " row"]:
        return recorder.choose(logits, torch.tensor(rows, dtype=torch.float64))

    with intervene(engine, change):
        decode_batch(engine.model, ids, mask, StoppingRule(set(material.chat.stop_ids), _STEPS), choose)
    compared = f"{len(ids)} answers begun as {as_who} ({engine.kind}), ablated, against whole passes: logits"
    return _finding(name, compared, material, recorder, [change] * len(ids))


def _finding(
    name: str, compared: str, material: CheckContext, recorder: _Recorder, interventions: Sequence[Intervention]
) -> Finding:
    """Each row's logits at the prompt and at the step, against a plain pass of the prompts and their first tokens."""
    figures: dict[str, list[float]] = {}
    for change in {change.name: change for change in interventions}.values():
        rows = [row for row, one in enumerate(interventions) if one is change]
        longer = [[*material.prompts[row], *recorder.tokens[row][: _STEPS - 1]] for row in rows]
        figures[change.name] = [
            worst([relative_change(*pair) for pair in zip(recorder.logits[row], expected, strict=True)])
            for row, expected in zip(rows, material.plain_logits(longer, change, _STEPS), strict=True)
        ]
    bound = pass_bound(material.dtype, material.chat.n_layers)
    verdict = judge_groups(figures.values(), bound, material.dtype)
    figure = worst([one for of_kind in figures.values() for one in of_kind])
    return Finding(name, compared, figure, bound, verdict, advice(verdict, material.chat.dtype, _WRONG))
