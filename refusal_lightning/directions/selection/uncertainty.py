"""How sure the choice is: the margin, the top five with intervals, and who wins when prompts are resampled."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from refusal_lightning.directions.analysis.bootstrap import bootstrap_weights, percentile_interval
from refusal_lightning.directions.selection.bounds import refusal_score_bound
from refusal_lightning.directions.selection.candidates import AUTHORS_KEYS, Candidate, CandidateScores
from refusal_lightning.directions.selection.choose import select
from refusal_lightning.directions.selection.filters import Thresholds, pruned_layer, zero_norm

Interval = tuple[float, float]
CONFIDENCE = 0.95
"""Of the bootstrap intervals."""
N_TOP = 5
"""So many of the best candidates are reported with intervals."""
AT_ONCE = 4 << 20
"""Weights (resamples x prompts), and scores (candidates x prompts), that are worked on at a time; each takes 8 bytes a
few times over."""


@dataclass(frozen=True, eq=False)
class PromptScores:
    """Per-prompt scores of all candidates, NaN where not computed."""

    bypass: Float[np.ndarray, "position layer harmful"]
    """Refusal scores of the harmful validation prompts under ablation."""
    induce: Float[np.ndarray, "position layer harmless"]
    """Refusal scores of the harmless validation prompts under addition."""
    kl: Float[np.ndarray, "position layer harmless"]
    """KL scores of the same harmless prompts, in the same order, under ablation."""

    def means(self) -> CandidateScores:
        """The candidates' table: means over prompts, float64; NaN if any prompt's score is."""
        bypass, induce, kl = (np.asarray(x, dtype=np.float64) for x in (self.bypass, self.induce, self.kl))
        return CandidateScores(bypass.mean(axis=-1), induce.mean(axis=-1), kl.mean(axis=-1))


@dataclass(frozen=True)
class TopCandidate:
    """A candidate that passes the filter, with its uncertainty over prompts."""

    candidate: Candidate
    """Its scores on the prompts as they are."""
    bypass: Interval
    """Bootstrap interval of its bypass score."""
    induce: Interval
    """Bootstrap interval of its induce score."""
    kl: Interval
    """Bootstrap interval of its KL score."""
    wins: float
    """Share of the resamples in which it is selected."""
    passes: float
    """Share of the resamples in which it passes the filter."""


@dataclass(frozen=True, eq=False)
class Uncertainty:
    """The choice under resampling of the validation prompts."""

    margin: float
    """Bypass score of the runner-up minus that of the selected (log-odds); NaN without a runner-up."""
    margin_interval: Interval
    """Bootstrap interval of that difference, both on the same resamples; with 0 inside, no clear choice."""
    top: tuple[TopCandidate, ...]
    """The best candidates, the selected one first."""
    wins: Float[np.ndarray, "position layer"]
    """Share of the resamples in which each candidate is selected."""
    none: float
    """Share of the resamples in which none passes the filter; ``wins`` and ``none`` sum to 1."""
    undecided: float
    """Share of the resamples that a candidate whose scores are not all there might have won; 0 if all are."""
    n_resamples: int
    """Number of resamples."""

    def summary(self) -> str:
        """One line: how clear the choice is."""
        best, low_high = self.top[0], self.margin_interval
        line = f"wins {best.wins:.0%} of {self.n_resamples} resamples of the validation prompts"
        if len(self.top) == 1:
            return f"the only candidate that passed; {line}"
        second = self.top[1].candidate
        line += (
            f"; margin to position {second.position}, layer {second.layer}: {self.margin:.3f} "
            f"[{low_high[0]:.3f}, {low_high[1]:.3f}]"
        )
        return line + (" (no clear choice)" if low_high[0] <= 0 else "")

    def to_json(self) -> dict[str, Any]:
        """Plain lists and numbers; ``winners`` are the candidates that won any resample, most wins first."""
        n_positions = self.wins.shape[0]
        order = np.argsort(-self.wins, axis=None, kind="stable")
        places = [np.unravel_index(i, self.wins.shape) for i in order[: int((self.wins > 0).sum())]]
        return {
            "n_resamples": self.n_resamples,
            "margin": self.margin,
            "margin_interval": list(self.margin_interval),
            "top": [
                {
                    **top.candidate.row(),
                    **{f"{key}_interval": list(getattr(top, kind)) for kind, key in AUTHORS_KEYS.items()},
                    "wins": top.wins,
                    "passes": top.passes,
                }
                for top in self.top
            ],
            "winners": [
                {"position": int(row) - n_positions, "layer": int(layer), "wins": float(self.wins[row, layer])}
                for row, layer in places
            ],
            "none_passes": self.none,
            "undecided": self.undecided,
        }


def uncertainty(
    scores: PromptScores,
    thresholds: Thresholds,
    norms: Float[np.ndarray, "position layer"],
    rng: np.random.Generator,
    n_resamples: int = 2000,
    hopeless: Bool[np.ndarray, "position layer"] | None = None,
) -> Uncertainty:
    """Draw harmful and harmless prompts with replacement, filter and choose again each time (percentile
    bootstrap).

    Induce and KL scores share their prompts, so they share each draw. The directions are not drawn again (see
    ``stability``): this is the noise of validation alone. Only candidates with all their scores can win;
    after a staged run ``undecided`` bounds how often one of the others might have, but for the ``hopeless``: those with
    a score that was computed and is NaN. Raises NoCandidateError if none passes on the prompts as they are.
    """
    means = scores.means()
    selection = select(means, thresholds, norms)
    (bypass, induce, kl), (best_bypass, best_induce, best_kl) = _resampled(scores, n_resamples, rng)
    eligible = ~(pruned_layer(means.shape, thresholds) | zero_norm(means, norms)).ravel()
    passing = eligible & _passes(induce, kl, thresholds) & ~np.isnan(bypass)
    lowest = np.where(passing, bypass, np.inf)
    winners, decided = np.argmin(lowest, axis=1), passing.any(axis=1)
    wins = np.bincount(winners[decided], minlength=passing.shape[1]) / n_resamples

    incomplete = eligible & np.isnan(bypass[0] + induce[0] + kl[0])
    if hopeless is not None:
        incomplete &= ~hopeless.ravel()
    rivals = incomplete & _passes(best_induce, best_kl, thresholds) & (best_bypass <= lowest.min(axis=1)[:, None])

    best = selection.survivors[:N_TOP]
    columns = [(c.position + means.shape[0]) * means.shape[1] + c.layer for c in best]
    tops = [
        TopCandidate(
            candidate,
            bypass=_interval(bypass[:, i]),
            induce=_interval(induce[:, i]),
            kl=_interval(kl[:, i]),
            wins=float(wins[i]),
            passes=float(passing[:, i].mean()),
        )
        for candidate, i in zip(best, columns, strict=True)
    ]
    margins = bypass[:, columns[1]] - bypass[:, columns[0]] if len(best) > 1 else np.full(1, np.nan)
    return Uncertainty(
        margin=selection.margin,
        margin_interval=_interval(margins),
        top=tuple(tops),
        wins=wins.reshape(means.shape),
        none=float(1 - decided.mean()),
        undecided=float(rivals.any(axis=1).mean()),
        n_resamples=n_resamples,
    )


def _resampled(scores: PromptScores, n_resamples: int, rng: np.random.Generator) -> list[tuple[np.ndarray, ...]]:
    """Mean bypass, induce and KL score of every candidate in every resample, NaN if any prompt's score is; and the same
    with the best value that a score can take wherever it is missing (see ``bounds``).

    No KL score is below -log 2: in ``bounds.kl_lower_bounds`` both terms are below 1.
    """
    best = refusal_score_bound()
    bypass = _means([(scores.bypass, -best)], n_resamples, rng)
    others = _means([(scores.induce, best), (scores.kl, -math.log(2))], n_resamples, rng)
    return list(zip(*bypass, *others, strict=True))


def _means(
    kinds: Sequence[tuple[Float[np.ndarray, "position layer prompt"], float]],
    n_resamples: int,
    rng: np.random.Generator,
) -> list[tuple[Float[np.ndarray, "resample candidate"], Float[np.ndarray, "resample candidate"]]]:
    """Of kinds of scores that share their prompts, and each draw: means as they are, and with a value for the missing.

    Some resamples and candidates at a time: AT_ONCE numbers of each.
    """
    n_prompts = kinds[0][0].shape[-1]
    at_once = max(1, AT_ONCE // n_prompts)
    flat = [(scores.reshape(-1, n_prompts), value) for scores, value in kinds]
    means = [(np.empty((n_resamples, len(x))), np.empty((n_resamples, len(x)))) for x, _ in flat]
    for start in range(0, n_resamples, at_once):
        weights = bootstrap_weights(n_prompts, min(at_once, n_resamples - start), rng)
        resamples = slice(start, start + len(weights))
        for (x, value), (as_they_are, at_best) in zip(flat, means, strict=True):
            for first in range(0, len(x), at_once):
                part, candidates = x[first : first + at_once].T.astype(np.float64), slice(first, first + at_once)
                as_they_are[resamples, candidates] = weights @ part / n_prompts
                at_best[resamples, candidates] = weights @ np.where(np.isnan(part), value, part) / n_prompts
    return means


def _passes(
    induce: Float[np.ndarray, "resample candidate"],
    kl: Float[np.ndarray, "resample candidate"],
    thresholds: Thresholds,
) -> np.ndarray:
    """Which means pass the induce and KL rules; NaN does not pass, also where a rule is off."""
    induces = ~np.isnan(induce) if thresholds.induce is None else induce >= thresholds.induce
    return induces & (~np.isnan(kl) if thresholds.kl is None else kl <= thresholds.kl)


def _interval(values: Float[np.ndarray, " resample"]) -> Interval:
    low, high = percentile_interval(values, CONFIDENCE)
    return float(low), float(high)
