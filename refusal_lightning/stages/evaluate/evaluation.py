"""The evaluation of a direction: completions under each intervention, judged and compared, and losses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refusal_lightning.data.datasets import ROLES
from refusal_lightning.data.loss_sets import of_the_baseline
from refusal_lightning.doctor.hook_proof import HookProof
from refusal_lightning.errors import UserError
from refusal_lightning.inference.sampling import Sampling
from refusal_lightning.inputs.evaluation_sets import EvaluationSet
from refusal_lightning.inputs.loss_texts import ScoredText, own_completions
from refusal_lightning.interventions import BASELINE, KeyedIntervention
from refusal_lightning.interventions.registry import build_intervention
from refusal_lightning.io.console import is_main_process
from refusal_lightning.io.hashing import digest
from refusal_lightning.judges.comparison import compare_evaluations
from refusal_lightning.judges.rates import evaluate_completions
from refusal_lightning.judges.response_cache import ResponseCache
from refusal_lightning.judges.verdict import Measures
from refusal_lightning.report.summary import differences_of, losses_of, rate_of
from refusal_lightning.report.tables import completions_frame, differences_frame, losses_frame, rates_frame
from refusal_lightning.stages.evaluate.completions import (
    Completion,
    CompletionSettings,
    completion_task,
    generate_answers,
)
from refusal_lightning.stages.evaluate.inputs import EvaluationInputs
from refusal_lightning.stages.evaluate.judging import ask_in_all_processes
from refusal_lightning.stages.evaluate.losses import loss_entry, loss_key, text_losses

if TYPE_CHECKING:
    from pandas import DataFrame

Place = tuple[str, str]
"""A set of prompts, and the intervention under which they are answered, by their names."""


@dataclass(frozen=True)
class EvaluationResult:
    """What an evaluation found, and what it depends on."""

    inputs: EvaluationInputs
    """What was answered and measured, and how."""
    answers: Mapping[Place, list[Completion]]
    """In the order of the set's prompts."""
    completion_keys: Mapping[Place, str]
    """What the completions depend on."""
    evaluations: Mapping[Place, dict[str, Any]]
    """Each judge's verdicts, rates and intervals (``evaluate_completions``); in the first process only."""
    comparisons: Mapping[str, list[dict[str, Any]]]
    """By set: every two interventions' rates, compared prompt by prompt; in the first process only."""
    loss_entries: Mapping[str, dict[str, dict[str, Any]]]
    """By intervention and set of texts (``loss_entry``)."""
    text_digests: Mapping[str, str]
    """Of each set of texts."""
    n_computed: int
    """Completions and texts that were run through the model now; the rest was there."""
    hooks_proved: dict[str, Any] | None
    """What was compared before the work, see ``HookProof``."""

    @property
    def _measures(self) -> dict[str, Measures]:
        return {name: judge.measures for name, judge in self.inputs.judges.items()}

    @property
    def rates(self) -> DataFrame:
        """A row for each set, intervention and judge: how many answers refuse (or show what the judge measures).

        Raises UserError without pandas.
        """
        places = [(item, name) for item in self.inputs.sets for name in self.inputs.config.interventions]
        return rates_frame(
            [
                rate_of(item.prompts.name, item.role, name, judge, self.evaluations[item.prompts.name, name], measures)
                for item, name in places
                for judge, measures in self._measures.items()
            ]
        )

    @property
    def differences(self) -> DataFrame:
        """A row for each set, intervention and judge: how the share of refusals differs from the baseline's.

        Raises UserError without pandas.
        """
        found = (differences_of(name, rows, self._measures) for name, rows in self.comparisons.items())
        return differences_frame([difference for some in found for difference in some])

    @property
    def losses(self) -> DataFrame:
        """A row for each intervention and set of texts: cross-entropy (nats per token), perplexity, tokens.

        Raises UserError without pandas.
        """
        found = (losses_of(name, entries) for name, entries in self.loss_entries.items())
        return losses_frame([loss for some in found for loss in some])

    def completions(self, dataset: str, intervention: str) -> DataFrame:
        """A row for each prompt of a set: prompt, response and verdicts under an intervention.

        Raises UserError for a set or an intervention that was not evaluated, and without pandas.
        """
        if (dataset, intervention) not in self.evaluations:
            there = ", ".join(f"{name} under {acting}" for name, acting in self.evaluations)
            raise UserError(f"{dataset} under {intervention} was not evaluated; there are {there}")
        return completions_frame(self.evaluations[dataset, intervention])


def evaluate_direction(inputs: EvaluationInputs, journals: Path) -> EvaluationResult:
    """Answer all sets under every intervention, measure the losses, and judge; every process must call this.

    ``journals`` is a folder that keeps what is done, so that a killed evaluation goes on where it was, and one that is
    all done loads no weights. Raises UserError.
    """
    prompts = ([ids for item in inputs.in_place_of(role) for ids in item.prompts.token_ids] for role in ROLES)
    proof = HookProof("evaluate", inputs.chat, journals, ["answers"], *prompts)
    completions, keys, n_answers = _complete(inputs, journals)
    texts = {**inputs.texts, **_own_texts(inputs, completions)}
    losses, n_texts = _losses(inputs, texts, journals)
    evaluations = _judge(inputs, completions, journals)
    return EvaluationResult(
        inputs=inputs,
        answers=completions,
        completion_keys=keys,
        evaluations=evaluations,
        comparisons={item.prompts.name: _compare(inputs, item, evaluations) for item in inputs.sets if evaluations},
        loss_entries=losses,
        text_digests={name: digest(some) for name, some in texts.items()},
        n_computed=n_answers + n_texts,
        hooks_proved=proof.figures(),
    )


def completion_rows(item: EvaluationSet, completions: list[Completion]) -> list[dict[str, Any]]:
    """A set's completions as they are judged and written."""
    rows = zip(item.categories, item.prompts.instructions, completions, strict=True)
    return [{"category": category, "prompt": prompt, "response": made.response} for category, prompt, made in rows]


def _acting(inputs: EvaluationInputs, name: str, role: str) -> KeyedIntervention:
    return build_intervention(name, inputs.selected.vector, inputs.selected.layer, role)


def _complete(inputs: EvaluationInputs, journals: Path) -> tuple[dict[Place, list[Completion]], dict[Place, str], int]:
    """All completions, their keys, and how many were generated now."""
    config = inputs.config
    sampling = Sampling(**asdict(config.sampling)) if config.sampling else None
    settings = CompletionSettings(config.max_new_tokens, config.batch_size, sampling)
    tasks = {
        (item.prompts.name, name): completion_task(
            inputs.chat, item.prompts, _acting(inputs, name, item.role), settings
        )
        for item in inputs.sets
        for name in config.interventions
    }
    found, n_computed = generate_answers(inputs.chat, inputs.trainer, list(tasks.values()), journals, settings)
    keys = {place: task.key for place, task in tasks.items()}
    return dict(zip(tasks, found, strict=True)), keys, n_computed


def _own_texts(inputs: EvaluationInputs, completions: Mapping[Place, list[Completion]]) -> dict[str, list[ScoredText]]:
    """The baseline's completions of the harmless sets, where their loss is asked for and they were made."""
    config = inputs.config
    names = [name for name in config.losses if of_the_baseline(name)]
    pairs = [
        (instruction, made.response)
        for item in inputs.in_place_of("harmless")
        if BASELINE.name in config.interventions
        for instruction, made in zip(
            item.prompts.instructions, completions[item.prompts.name, BASELINE.name], strict=True
        )
    ]
    return {name: own_completions(inputs.chat, pairs, config.loss_mask) for name in names} if pairs else {}


def _losses(
    inputs: EvaluationInputs, texts: Mapping[str, list[ScoredText]], journals: Path
) -> tuple[dict[str, dict[str, dict[str, Any]]], int]:
    """The loss by intervention and set of texts, and how many texts were run now. All are in the place of harmful."""
    config, n_computed = inputs.config, 0
    losses: dict[str, dict[str, dict[str, Any]]] = {}
    for dataset, some in texts.items():
        for name in config.interventions:
            acting = _acting(inputs, name, "harmful")
            journal = journals / f"loss-{dataset}-{name}-{loss_key(inputs.chat, acting, some)}"
            sums, new = text_losses(
                inputs.chat, inputs.trainer, acting.intervention, some, journal, config.loss_batch_size
            )
            losses.setdefault(name, {})[dataset] = loss_entry(sums, config.loss_mask)
            n_computed += new
    return losses, n_computed


def _judge(
    inputs: EvaluationInputs, completions: Mapping[Place, list[Completion]], journals: Path
) -> dict[Place, dict[str, Any]]:
    """Each judge's verdicts; the judges on this machine are asked in all processes, the others in the first."""
    rows = {
        (item.prompts.name, name): completion_rows(item, completions[item.prompts.name, name])
        for item in inputs.sets
        for name in inputs.config.interventions
    }
    pairs = [(row["prompt"], row["response"]) for some in rows.values() for row in some]
    responses = ResponseCache(journals / "judges.jsonl")
    judges, release = inputs.judges, inputs.chat.release
    ask_in_all_processes(judges.values(), pairs, responses, inputs.judging, inputs.trainer, journals, before=release)
    if not is_main_process():
        return {}
    return {place: evaluate_completions(some, judges, responses) for place, some in rows.items()}


def _compare(
    inputs: EvaluationInputs, item: EvaluationSet, evaluations: Mapping[Place, dict[str, Any]]
) -> list[dict[str, Any]]:
    of_set = {name: evaluations[item.prompts.name, name] for name in inputs.config.interventions}
    return compare_evaluations(of_set, list(inputs.judges))
