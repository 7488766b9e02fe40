"""What one estimator's selection came to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from refusal_lightning.config import SelectConfig
from refusal_lightning.data.labels import Labels
from refusal_lightning.directions.direction import Direction
from refusal_lightning.directions.estimators.registry import ESTIMATORS
from refusal_lightning.directions.selection.candidates import SCORES, Place
from refusal_lightning.directions.selection.choose import NoCandidateError, Selection
from refusal_lightning.directions.selection.report import DESCRIPTIONS
from refusal_lightning.directions.selection.score_table import ScoreTable
from refusal_lightning.directions.selection.search import Choice, Rules
from refusal_lightning.directions.selection.uncertainty import Uncertainty
from refusal_lightning.errors import UserError
from refusal_lightning.io.hashing import digest
from refusal_lightning.io.serialization import plain
from refusal_lightning.io.versions import package_versions
from refusal_lightning.report.figures.scores import SCORE_FIGURES, ScoredCandidates
from refusal_lightning.report.summary import BY_HAND, BY_THE_RULES
from refusal_lightning.report.tables import candidates_frame, scores_dataset
from refusal_lightning.stages.select.inputs import SelectionInputs

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame
    from xarray import Dataset


@dataclass(frozen=True, eq=False)
class SelectionResult:
    """Directions, their scores and the choice among them, with what they were made from."""

    inputs: SelectionInputs
    """The model, the store and the prompts that the filter kept."""
    settings: SelectConfig
    """As they were given."""
    rules: Rules
    """How the settings want a candidate chosen."""
    estimator: str
    """Which drew the directions, by its name."""
    key: str
    """Under which the scores are kept."""
    directions: Float[np.ndarray, "position layer d_model"]
    """The candidates, float64."""
    norms: Float[np.ndarray, "position layer"]
    """Of the directions."""
    table: ScoreTable
    """Their scores for every prompt, as far as they were needed."""
    choice: Choice
    """The candidate that was chosen, and those that passed; or why none was."""
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
    def vector(self) -> Float[np.ndarray, " d_model"] | None:
        """The selected direction, float64; None where nothing was chosen."""
        return None if isinstance(self.choice, NoCandidateError) else self.directions[self.choice.place]

    @property
    def direction(self) -> Direction:
        """The selected direction with all that says what it is. Raises NoCandidateError where nothing was chosen."""
        if isinstance(self.choice, NoCandidateError):
            raise self.choice
        chat, chosen = self.inputs.chat, self.choice.scores
        return Direction(
            vector=self.directions[self.choice.place],
            layer=chosen.layer,
            position=chosen.position,
            n_layers=chat.n_layers,
            model_name=chat.name,
            identity=chat.identity,
            scores=plain({kind: getattr(chosen, kind) for kind in SCORES}),
            made_from=self._made_from(self.choice),
        )

    def _made_from(self, choice: Selection) -> dict[str, Any]:
        """How the direction was made, in the words of run.json."""
        origin = ESTIMATORS.origin(self.estimator)
        return {
            "estimator": self.estimator,
            **({"estimator_from": origin} if origin else {}),
            "prompts": self.prompts,
            "refusal_tokens": [row["token"] for row in self.inputs.refusal_tokens],
            "select": asdict(self.settings),
            "seed": self.inputs.data.seed,
            "chosen": BY_HAND if choice.by_hand else BY_THE_RULES,
            "fails": list(choice.fails),
            "versions": package_versions(),
        }

    @property
    def prompts(self) -> dict[str, dict[str, Any]]:
        """By set: how many prompts were drawn, how many the filter kept, and a digest of these."""
        return {
            f.prompts.name: {"drawn": f.drawn, "kept": len(f.prompts), "hash": digest(f.prompts.hashes)}
            for f in self.inputs.kept.values()
        }

    @property
    def scored(self) -> ScoredCandidates:
        """What the figures are drawn from."""
        chat = self.inputs.chat
        tokens = [chat.tokenizer.decode([i]) for i in chat.eoi_ids]
        chosen = None if isinstance(self.choice, NoCandidateError) else self.choice.place
        labels = Labels.of(self.inputs.data.labels)
        return ScoredCandidates(self.table.means(), tokens, self.inputs.baseline, chosen, labels)

    @property
    def scores(self) -> Dataset:
        """``bypass``, ``induce`` and ``kl`` of every candidate as an xarray Dataset, ``[position, layer]``, float64.

        Its attributes are the thresholds, the baseline's refusal scores and the place that was chosen. A score that
        the choice did not need is NaN; ``mode="exhaustive"`` has all. Raises UserError without xarray.
        """
        return scores_dataset(self.scored, self.rules.thresholds)

    @property
    def candidates(self) -> DataFrame:
        """A row for each candidate: scores, norm, whether it passes the filter, and the first rule that drops it.

        Raises UserError without pandas.
        """
        return candidates_frame(self.scored, self.rules.thresholds, self.norms, self.reasons)

    def figure(self, name: str) -> Figure:
        """One of the scores by layer, as a matplotlib figure: ``"bypass"``, ``"induce"`` or ``"kl"``.

        Raises UserError for another name.
        """
        if name not in SCORE_FIGURES:
            raise UserError(f"a selection has no figure {name!r}; it has {', '.join(SCORE_FIGURES)}")
        return SCORE_FIGURES[name](self.scored)


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
