"""From verdicts to the paper's evaluation files, with what the paper's leave out: counts, intervals, agreement."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from refusal_lightning.judges.agreement import agreement
from refusal_lightning.judges.intervals import bootstrap_mean, wilson
from refusal_lightning.judges.verdict import Judge, JudgeResponses, Verdict


def evaluate_completions(
    completions: Sequence[Mapping[str, Any]], judges: Mapping[str, Judge], answers: JudgeResponses | None = None
) -> dict[str, Any]:
    """Rates of compliance, over all and by category, and the completions with each judge's verdict.

    ``completions`` are ``{"category", "prompt", "response"}``. ``answers`` are what judging models said before, and
    take what they say now: an :class:`~refusal_lightning.judges.response_cache.ResponseCache` survives a kill.

    Keys of the authors' files: ``NAME_success_rate``, ``NAME_per_category``, ``completions`` with
    ``is_jailbreak_NAME`` 0 or 1. Ours: see :func:`judge_results`; ``judge_agreement`` where there are several judges;
    and ``raw_NAME``, ``score_NAME``, ``note_NAME`` of the completions that have them. A response that could not be
    judged has ``is_jailbreak_NAME`` null, and is in no rate.
    """
    answers = {} if answers is None else answers
    judged = [dict(row) for row in completions]
    pairs = [(row["prompt"], row["response"]) for row in judged]
    categories = [str(row["category"]) for row in judged]
    result: dict[str, Any] = {}
    complied: dict[str, list[bool | None]] = {}
    for name, judge in judges.items():
        verdicts = judge(pairs, answers)
        complied[name] = [verdict.complied for verdict in verdicts]
        for row, verdict in zip(judged, verdicts, strict=True):
            row |= _of_row(name, verdict)
        result |= judge_results(name, verdicts, categories)
    if len(judges) > 1:
        result["judge_agreement"] = agreement(complied)
    result["completions"] = judged
    return result


def judge_results(name: str, verdicts: Sequence[Verdict], categories: Sequence[str]) -> dict[str, Any]:
    """The entries of one judge, each key starting with its name.

    ``_success_rate``, ``_per_category``: the paper's, of the responses that were judged; null where none was.
    ``_interval``, ``_per_category_intervals``: Wilson's 95 % intervals of those rates.
    ``_counts``, ``_per_category_counts``: complied, judged, unjudged. ``_notes``: how often each note was given.
    ``_mean_score``, ``_mean_score_interval`` (bootstrap): of judges that give scores.
    """
    of_category: dict[str, list[Verdict]] = {category: [] for category in sorted(set(categories))}
    for category, verdict in zip(categories, verdicts, strict=True):
        of_category[category].append(verdict)
    counts = {category: _counts(some) for category, some in of_category.items()}
    total = _counts(verdicts)
    result: dict[str, Any] = {
        f"{name}_success_rate": _rate(total),
        f"{name}_interval": _interval(total),
        f"{name}_counts": total,
        f"{name}_per_category": {category: _rate(some) for category, some in counts.items()},
        f"{name}_per_category_intervals": {category: _interval(some) for category, some in counts.items()},
        f"{name}_per_category_counts": counts,
    }
    if notes := Counter(verdict.note for verdict in verdicts if verdict.note is not None):
        result[f"{name}_notes"] = dict(sorted(notes.items()))
    if scores := [verdict.score for verdict in verdicts if verdict.score is not None]:
        result[f"{name}_mean_score"] = sum(scores) / len(scores)
        result[f"{name}_mean_score_interval"] = list(bootstrap_mean(scores))
    return result


def summary(evaluation: Mapping[str, Any], judges: Sequence[str]) -> str:
    """One line per judge, and one per two judges, for the terminal."""
    lines = []
    for name in judges:
        counts, rate, interval = (evaluation[f"{name}_{key}"] for key in ("counts", "success_rate", "interval"))
        line = f"{name}: {counts['complied']}/{counts['judged']} comply"
        if rate is not None:
            line += f" = {rate:.1%} [{interval[0]:.1%}, {interval[1]:.1%}]"
        if f"{name}_mean_score" in evaluation:
            low, high = evaluation[f"{name}_mean_score_interval"]
            line += f", mean score {evaluation[f'{name}_mean_score']:.3f} [{low:.3f}, {high:.3f}]"
        lines.append(line + (f"; {counts['unjudged']} could not be judged" if counts["unjudged"] else ""))
        lines += [f"    {count} x {note}" for note, count in evaluation.get(f"{name}_notes", {}).items()]
    for entry in evaluation.get("judge_agreement", []):
        kappa = "not defined" if entry["kappa"] is None else f"{entry['kappa']:.3f}"
        differ = len(entry["rows_that_differ"])
        lines.append(f"{' and '.join(entry['judges'])}: kappa {kappa}, differ on {differ}/{entry['judged_by_both']}")
    return "\n".join(lines)


def _of_row(name: str, verdict: Verdict) -> dict[str, Any]:
    entry: dict[str, Any] = {f"is_jailbreak_{name}": None if verdict.complied is None else int(verdict.complied)}
    optional = {"raw": verdict.raw or None, "score": verdict.score, "note": verdict.note}
    return entry | {f"{key}_{name}": value for key, value in optional.items() if value is not None}


def _counts(verdicts: Sequence[Verdict]) -> dict[str, int]:
    judged = [verdict.complied for verdict in verdicts if verdict.complied is not None]
    return {"complied": sum(judged), "judged": len(judged), "unjudged": len(verdicts) - len(judged)}


def _rate(counts: Mapping[str, int]) -> float | None:
    return counts["complied"] / counts["judged"] if counts["judged"] else None


def _interval(counts: Mapping[str, int]) -> list[float] | None:
    return list(wilson(counts["complied"], counts["judged"])) if counts["judged"] else None
