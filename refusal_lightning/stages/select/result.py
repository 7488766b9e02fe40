"""What one estimator's selection came to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from refusal_lightning.config import SelectConfig
from refusal_lightning.directions.selection.candidates import Place
from refusal_lightning.directions.selection.choose import NoCandidateError, Selection
from refusal_lightning.directions.selection.report import DESCRIPTIONS
from refusal_lightning.directions.selection.score_table import ScoreTable
from refusal_lightning.directions.selection.search import Choice, Rules
from refusal_lightning.directions.selection.uncertainty import Uncertainty
from refusal_lightning.stages.select.inputs import SelectionInputs


@dataclass(frozen=True, eq=False)
class SelectionResult:
    """Directions, their scores and the choice among them, with what they were made from."""

    inputs: SelectionInputs
    settings: SelectConfig
    rules: Rules
    estimator: str
    key: str
    """Under which the scores are kept."""
    directions: Float[np.ndarray, "position layer d_model"]
    norms: Float[np.ndarray, "position layer"]
    table: ScoreTable
    choice: Choice
    reasons: Mapping[Place, str]
    """Candidates that lack scores since they were proven out, or left alone, with the reason."""
    answer_kl: Mapping[Place, Float[np.ndarray, " prompt"]]
    """By candidate: KL over the answers' first tokens; empty where it was not asked for."""
    uncertainty: Uncertainty | None
    """How sure the rules' choice is; None where a person chose, or nothing was chosen."""
    cosmic: Mapping[str, Any] | None
    """What COSMIC's criterion says of the rules' choice (see ``cross_checks``); None as above."""
    hooks_proved: Mapping[str, Any] | None
    """The figures of the proof of hooks; None where there was none."""

    @property
    def direction(self) -> Float[np.ndarray, " d_model"] | None:
        """The selected direction, float64; None where nothing was chosen."""
        return None if isinstance(self.choice, NoCandidateError) else self.directions[self.choice.place]


def describe(result: SelectionResult) -> list[str]:
    """What the user is told of a selection: the choice, how sure it is, and second opinions; or why there is none."""
    selection = result.choice
    if isinstance(selection, NoCandidateError):
        return [selection.report.text()]
    lines = [f"select: {_line(selection, result)}"]
    if result.uncertainty is not None:
        lines.append(f"select: {result.uncertainty.summary()}")
    if result.cosmic is not None:
        (position, layer), count = result.cosmic["best_of_survivors"], result.cosmic["rank_of_selected"]
        prefers = f"prefers {count} of the survivors, first position {position}, layer {layer}"
        agrees = prefers if count else "agrees"
        lines.append(f"select: COSMIC's cosine criterion (a second opinion, no forward pass) {agrees}")
    if result.answer_kl:
        n_tokens, kl = result.settings.answer_kl_tokens, result.answer_kl[selection.place].mean()
        lines.append(f"select: KL over the first {n_tokens} answer tokens {kl:.3f}")
    return lines


def report_text(selection: Selection) -> str:
    """The filter's report, headed by the choice where it was made by hand."""
    text = selection.report.text()
    return f"{_by_hand(selection)}\n{text}" if selection.by_hand else text


def _by_hand(selection: Selection) -> str:
    fails = ", ".join(DESCRIPTIONS[rule] for rule in selection.fails)
    verdict = f"the rules would drop it ({fails})" if fails else "it fails no rule"
    return f"position {selection.position}, layer {selection.layer} chosen by hand; {verdict}"


def _line(selection: Selection, result: SelectionResult) -> str:
    best, baseline, (n_positions, n_layers, _) = selection.scores, result.inputs.baseline, result.directions.shape
    head = f"position {best.position}, layer {best.layer} of {n_layers}"
    tail = f"{len(selection.survivors)} of {n_positions * n_layers} candidates passed"
    if selection.by_hand:
        tail = _by_hand(selection)
    return (
        f"{head}: bypass {best.bypass:.3f} (baseline {baseline['harmful']:.3f}), induce "
        f"{best.induce:.3f} (baseline {baseline['harmless']:.3f}), KL {best.kl:.3f}; {tail}"
    )
