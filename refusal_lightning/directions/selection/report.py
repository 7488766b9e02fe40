"""Why candidates were dropped: counts per rule, the nearest misses, and which threshold would let one
through.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from refusal_lightning.directions.selection.candidates import Candidate, CandidateScores, Place
from refusal_lightning.directions.selection.filters import RULES, Thresholds, dropped_by, failures

DESCRIPTIONS = {
    "zero_norm": "zero direction",
    "pruned_layer": "pruned layers",
    "nan": "a score is NaN",
    "induce": "induce score too low",
    "kl": "KL score too high",
    "beaten": "bypass score proven not the lowest (scoring stopped early)",
    "unscored": "not scored, since the candidate was chosen by hand",
}


@dataclass(frozen=True)
class Miss:
    """A dropped candidate and what it fails."""

    candidate: Candidate
    """The candidate with its scores."""
    rules: tuple[str, ...]
    """The rules with a threshold that it fails: of "pruned_layer", "induce", "kl"."""


@dataclass(frozen=True)
class ThresholdChange:
    """One changed threshold, the others kept, that lets a candidate through."""

    key: str
    """"kl_threshold", "induce_threshold" or "prune_layers"."""
    value: float
    """The value nearest to the present one that works, rounded to the safe side so that it can be typed."""
    candidate: Candidate
    """The candidate that then passes."""


@dataclass(frozen=True)
class FilterReport:
    """What the filter did with the table of candidates."""

    total: int
    """Number of candidates."""
    survivors: int
    """How many passed all rules (with a complete bypass score)."""
    fell: dict[str, int]
    """How many were dropped, by the first rule in the order of ``RULES`` ("beaten": staged runs only; "unscored": where
    the candidate was chosen by hand)."""
    fails: dict[str, int]
    """How many fail each rule on its own; in a staged run only scores that were computed count, and as NaN only those
    dropped for it."""
    misses: tuple[Miss, ...]
    """Dropped candidates that come nearest to passing, nearest first, at most five."""
    changes: tuple[ThresholdChange, ...]
    """For each threshold that could do it alone, the smallest change that lets a candidate through."""
    thresholds: Thresholds
    """The thresholds used."""

    def summary(self) -> str:
        """One line: the total, how many fell to which rule, and a threshold that would let one through."""
        counts = ", ".join(f"{count} {DESCRIPTIONS[rule]}" for rule, count in self.fell.items() if count)
        line = f"{self.survivors} of {self.total} candidates pass the filter" + (f" ({counts})" if counts else "")
        if not self.survivors and self.changes:
            line += "; " + " or ".join(_change_text(change) for change in self.changes)
        return line

    def text(self) -> str:
        """A few readable lines."""
        lines = [f"{self.survivors} of {self.total} candidates pass the filter"]
        for rule, count in self.fell.items():
            in_all = self.fails.get(rule, count)
            if count or in_all:
                # In a staged run fewer may have a complete score than were dropped for a part of it.
                also = f", {in_all} fail this rule in all" if in_all > count else ""
                what = DESCRIPTIONS[rule] + _limit(rule, self.thresholds)
                lines.append(f"  {count:4d} dropped: {what}{also}")
        if self.misses:
            lines.append("nearest misses:")
        for miss in self.misses:
            at = miss.candidate
            lines.append(
                f"  ({at.position}, {at.layer}) fails {' and '.join(miss.rules)}: "
                f"bypass {_number(at.bypass)}, induce {at.induce:.3f}, KL {at.kl:.3f}"
            )
        lines.extend(f"one change: {_change_text(change)}" for change in self.changes)
        return "\n".join(lines)


def filter_report(
    scores: CandidateScores,
    thresholds: Thresholds,
    norms: Float[np.ndarray, "position layer"] | None = None,
    ruled_out: Mapping[Place, str] | None = None,
) -> FilterReport:
    """The report for a table of scores; arguments as of ``choose.select``.

    With ``ruled_out`` (a staged run, even if nothing was ruled out) a bypass score that is NaN was not needed; without,
    it is one that cannot be had, and no threshold helps.
    """
    reasons = dropped_by(scores, thresholds, norms, ruled_out)
    fell = Counter(reasons.values())
    fails = failures(scores, thresholds, norms)
    n_fails = {rule: int(np.sum(mask)) for rule, mask in fails.items()}
    if ruled_out is not None:
        fails["nan"] = np.isnan(scores.induce) | np.isnan(scores.kl)
        n_fails["nan"] = fell["nan"]
    misses = _misses(scores, thresholds, fails)
    total = int(np.prod(scores.shape))
    return FilterReport(
        total=total,
        survivors=total - len(reasons),
        fell={rule: fell[rule] for rule in (*RULES, "beaten", "unscored") if rule in RULES or fell[rule]},
        fails=n_fails,
        misses=tuple(misses[:5]),
        changes=_changes(scores.shape[1], thresholds, misses),
        thresholds=thresholds,
    )


def _misses(scores: CandidateScores, thresholds: Thresholds, fails: dict[str, np.ndarray]) -> list[Miss]:
    """All candidates that only thresholds keep out, nearest first.

    Nearest: the fewest rules failed, then the smallest sum of ranks, each failed rule ranking the candidates
    that fail it from the smallest violation; ties in order of iteration.
    """
    n_layers = scores.shape[1]
    layers = np.broadcast_to(np.arange(n_layers), scores.shape)
    violations = {
        "pruned_layer": layers - thresholds.first_pruned_layer(n_layers),
        "induce": (thresholds.induce or 0.0) - np.asarray(scores.induce, dtype=np.float64),
        "kl": np.asarray(scores.kl, dtype=np.float64) - (thresholds.kl or 0.0),
    }
    rank = {rule: np.searchsorted(np.sort(violation[fails[rule]]), violation) for rule, violation in violations.items()}
    found: list[tuple[int, int, Miss]] = []
    for candidate in scores:
        at = candidate.place
        failed = tuple(rule for rule in violations if fails[rule][at])
        if failed and not fails["zero_norm"][at] and not fails["nan"][at]:
            found.append((len(failed), sum(int(rank[rule][at]) for rule in failed), Miss(candidate, failed)))
    return [miss for _, _, miss in sorted(found, key=lambda item: item[:2])]


def _changes(n_layers: int, thresholds: Thresholds, misses: list[Miss]) -> tuple[ThresholdChange, ...]:
    """For each rule, the nearest candidate that fails nothing else, and the value that admits it."""
    changes = []
    for rule in ("kl", "induce", "pruned_layer"):
        candidate = next((miss.candidate for miss in misses if miss.rules == (rule,)), None)
        if candidate is None:
            continue
        if rule == "kl" and math.isfinite(candidate.kl):
            changes.append(ThresholdChange("kl_threshold", _round_up(candidate.kl), candidate))
        if rule == "induce" and math.isfinite(candidate.induce):
            changes.append(ThresholdChange("induce_threshold", -_round_up(-candidate.induce), candidate))
        if rule == "pruned_layer":
            changes.append(ThresholdChange("prune_layers", _prune_share(n_layers, candidate.layer), candidate))
    return tuple(changes)


def _round_up(value: float, digits: int = 3) -> float:
    """The smallest number of ``digits`` significant digits that is not below ``value``."""
    if value == 0:
        return 0.0
    places = digits - 1 - math.floor(math.log10(abs(value)))
    rounded = round(value, places)
    return rounded if rounded >= value else round(rounded + 10.0**-places, places)


def _prune_share(n_layers: int, layer: int) -> float:
    """The largest share of two digits (or 0) that keeps ``layer``."""
    shares = (percent / 100 for percent in range(99, -1, -1))
    return next(share for share in shares if layer < Thresholds(prune_layers=share).first_pruned_layer(n_layers))


def _limit(rule: str, thresholds: Thresholds) -> str:
    """The threshold behind a rule, for the report."""
    limits = {
        "pruned_layer": f" (the last {thresholds.prune_layers:g} of the layers)" if thresholds.prune_layers else "",
        "induce": f" (below {thresholds.induce:g})" if thresholds.induce is not None else "",
        "kl": f" (above {thresholds.kl:g})" if thresholds.kl is not None else "",
    }
    return limits.get(rule, "")


def _number(score: float) -> str:
    return "not computed" if math.isnan(score) else f"{score:.3f}"


def _change_text(change: ThresholdChange) -> str:
    at = change.candidate
    return f"{change.key}: {change.value:g} would let position {at.position}, layer {at.layer} through"
