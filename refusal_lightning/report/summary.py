"""The figures of a run, read from its folder: what the terminal table and the HTML report show."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refusal_lightning.data.datasets import ROLES
from refusal_lightning.data.labels import Labels
from refusal_lightning.data.loss_sets import LOSS_SETS
from refusal_lightning.interventions import BASELINE
from refusal_lightning.interventions.registry import in_columns, label_of
from refusal_lightning.judges.verdict import Measures, measured_text, of_those_that_comply
from refusal_lightning.runs.folder import RunFolder

BY_HAND = "by hand"
BY_THE_RULES = "by the rules"


@dataclass(frozen=True)
class Rate:
    """How many of a set's judged answers show what the judge measures (they refuse), under one intervention."""

    dataset: str
    role: str
    """Whether its prompts are in the place of harmful or of harmless ones."""
    intervention: str
    judge: str
    count: int
    total: int
    interval: tuple[float, float] | None
    """Wilson's 95 % interval of the share; None where nothing could be judged."""

    @property
    def share(self) -> float | None:
        """The share that does; None where nothing could be judged."""
        return self.count / self.total if self.total else None


@dataclass(frozen=True)
class Difference:
    """How much an intervention changes the share of a set's answers (see ``Rate``), on the same prompts."""

    dataset: str
    intervention: str
    judge: str
    change: float | None
    interval: tuple[float, float]
    """Newcombe's 95 % interval of the paired difference."""
    p_value: float
    """McNemar's exact test, not corrected for the number of comparisons."""


@dataclass(frozen=True)
class Loss:
    """Cross-entropy of one set of texts under one intervention."""

    intervention: str
    dataset: str
    ce_loss: float
    perplexity: float
    n_tokens: int


@dataclass(frozen=True)
class Summary:
    """What a run found."""

    alias: str
    record: dict[str, Any]
    selected: dict[str, Any]
    rates: list[Rate]
    differences: list[Difference]
    losses: list[Loss]

    @property
    def labels(self) -> Labels:
        """Of the two kinds of prompts."""
        return Labels.of_record(self.record)

    @property
    def measured(self) -> str:
        """What the rates are shares of, to stand behind "answers"."""
        known = _measures(self.record)
        return measured_text(
            {rate.judge.removesuffix("_matching"): known.get(rate.judge, "refusal") for rate in self.rates}
        )

    @property
    def by_hand(self) -> str:
        """What is to be said of a direction that a person chose; empty where the rules chose it."""
        select = self.record.get("select", {})
        if select.get("chosen", BY_THE_RULES) == BY_THE_RULES:
            return ""
        fails = " and ".join(select["fails"])
        return f" (chosen by hand; {f'fails the rules {fails}' if fails else 'fails no rule'})"


def read_summary(run: RunFolder) -> Summary:
    """Read run.json and the evaluation files that it lists."""
    record = _read(run.record)
    evaluate, measures = record.get("evaluate", {}), _measures(record)
    rates: list[Rate] = []
    differences: list[Difference] = []
    for role in ROLES:
        for dataset in evaluate.get(role, []):
            for intervention in evaluate["interventions"]:
                verdicts = _read(run.completion_evaluations(dataset, intervention))
                for judge in evaluate["judges"]:
                    counted = measures.get(judge, "refusal")
                    rates.append(rate_of(dataset, role, intervention, judge, verdicts, counted))
            differences += differences_of(dataset, _read(run.comparisons(dataset))["comparisons"], measures)
    losses = []
    for intervention in evaluate.get("interventions", []) if evaluate.get("losses") else []:
        losses += losses_of(intervention, _read(run.loss_eval(intervention)))
    return Summary(run.path.name, record, record.get("select", {}).get("selected", {}), rates, differences, losses)


def _measures(record: Mapping[str, Any]) -> Mapping[str, Measures]:
    """What the judges measure that do not measure refusal, by their names in files."""
    measures: Mapping[str, Measures] = record.get("evaluate", {}).get("measures", {})
    return measures


def rate_of(
    dataset: str, role: str, intervention: str, judge: str, verdicts: Mapping[str, Any], measures: Measures
) -> Rate:
    """A judge's rate from an evaluation (``judges.rates.evaluate_completions``), of what the judge ``measures``."""
    judged = (row[f"is_jailbreak_{judge}"] for row in verdicts["completions"])
    values = [value for value in judged if value is not None]
    count, interval = sum(values), verdicts[f"{judge}_interval"]  # of those that comply
    if not of_those_that_comply(measures):
        count = len(values) - count
        interval = None if interval is None else (1 - interval[1], 1 - interval[0])
    bounds = None if interval is None else (interval[0], interval[1])
    return Rate(dataset, role, intervention, judge, count, len(values), bounds)


def losses_of(intervention: str, entries: Mapping[str, Mapping[str, Any]]) -> list[Loss]:
    """The losses under an intervention, from entries by set of texts."""
    names = ("ce_loss", "perplexity", "n_tokens")
    return [Loss(intervention, dataset, *(entry[name] for name in names)) for dataset, entry in entries.items()]


def differences_of(
    dataset: str, comparisons: Sequence[Mapping[str, Any]], measures: Mapping[str, Measures]
) -> list[Difference]:
    """The comparisons of a set's interventions with its baseline, if it has one, whichever of the two comes first."""
    found = []
    for row in comparisons:
        if BASELINE.name not in (row["first"], row["second"]):
            continue
        # The file has compliance, second minus first; a share that refuses changes by as much the other way.
        change, (low, high) = row["difference"], row["difference_interval"]
        baseline_first = row["first"] == BASELINE.name
        name = row["second"] if baseline_first else row["first"]
        if baseline_first != of_those_that_comply(measures.get(row["judge"], "refusal")):
            change, low, high = None if change is None else -change, -high, -low
        found.append(Difference(dataset, name, row["judge"], change, (low, high), row["p_value"]))
    return found


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def terminal_table(summary: Summary, folder: Path) -> str:
    """The short table that ends `evaluate`."""
    shown = in_columns(
        [*(rate.intervention for rate in summary.rates), *(loss.intervention for loss in summary.losses)]
    )
    about = f"share of answers{summary.measured}" if summary.rates else "answers not judged (evaluate.judges is empty)"
    lines = [f"{summary.alias}: {about}", ""]
    width = max(26, 2 + max((len(label_of(i)) for i in shown), default=0))
    lines.append(f"{'':<32}" + "".join(f"{label_of(i):>{width}}" for i in shown))
    for dataset, role, judge in dict.fromkeys((r.dataset, r.role, r.judge) for r in summary.rates):
        cells = [
            next(r for r in summary.rates if (r.dataset, r.judge, r.intervention) == (dataset, judge, i)) for i in shown
        ]
        label = f"{dataset} ({judge.removesuffix('_matching')})" if dataset else getattr(summary.labels, role)
        lines.append(f"{label:<32}" + "".join(f"{_cell(c):>{width}}" for c in cells))
    for dataset in dict.fromkeys(loss.dataset for loss in summary.losses):
        values = [
            next(
                (f"{v.ce_loss:.4f}" for v in summary.losses if (v.dataset, v.intervention) == (dataset, i)),
                "",
            )
            for i in shown
        ]
        label = summary.labels.named(LOSS_SETS[dataset].label) if dataset in LOSS_SETS else dataset
        lines.append(f"{f'CE loss, {label}':<32}" + "".join(f"{value:>{width}}" for value in values))
    chosen = summary.selected
    lines += ["", f"selected: position {chosen.get('position')}, layer {chosen.get('layer')}{summary.by_hand}"]
    lines.append(f"results:  {folder}")
    return "\n".join(lines)


def _cell(rate: Rate) -> str:
    """A rate with its interval in percent."""
    if rate.interval is None or not rate.total:
        return "none judged"
    low, high = (f"{100 * bound:.0f}" for bound in rate.interval)
    return f"{rate.count}/{rate.total} = {rate.count / rate.total:.0%} [{low}, {high}]"
