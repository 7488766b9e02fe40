"""The candidates' scores for every prompt, as far as they are computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from refusal_lightning.directions.selection.bounds import PartialMean
from refusal_lightning.directions.selection.candidates import SCORES, CandidateScores, Place, ScoreKind
from refusal_lightning.directions.selection.uncertainty import PromptScores

Bounds = tuple[Float[np.ndarray, " prompt"], Float[np.ndarray, " prompt"]]
"""The least and the largest value that each prompt's score can have."""


@dataclass(frozen=True, eq=False)
class ScoreTable:
    """Scores by kind, float64, NaN where not computed, filled in place by ``enter``.

    A candidate that was proven out has some prompts only. Row ``i`` is position ``i - n_positions``.
    """

    values: Mapping[ScoreKind, Float[np.ndarray, "position layer prompt"]]
    """Bypass scores of the harmful prompts; induce and KL scores of the harmless ones."""
    seen: Mapping[ScoreKind, Bool[np.ndarray, "position layer prompt"]]
    """What has been computed: a computed score may be NaN."""
    bounds: Mapping[ScoreKind, Bounds]

    @classmethod
    def empty(cls, shape: tuple[int, int], bounds: Mapping[ScoreKind, Bounds]) -> ScoreTable:
        """No score yet, for (n_positions, n_layers) candidates."""
        n_prompts = {kind: len(bounds[kind][0]) for kind in SCORES}
        values = {kind: np.full((*shape, n), np.nan) for kind, n in n_prompts.items()}
        seen = {kind: np.zeros((*shape, n), dtype=bool) for kind, n in n_prompts.items()}
        return cls(values, seen, bounds)

    def enter(
        self,
        kind: ScoreKind,
        place: Place,
        prompts: Sequence[int],
        scores: Sequence[float] | Float[np.ndarray, " seen"],
    ) -> None:
        """Take in a candidate's scores of some prompts, by their index."""
        index = np.asarray(prompts, dtype=np.intp)
        self.values[kind][place][index] = scores
        self.seen[kind][place][index] = True

    @property
    def shape(self) -> tuple[int, int]:
        """(n_positions, n_layers)."""
        n_positions, n_layers, _ = self.values["bypass"].shape
        return n_positions, n_layers

    def places(self) -> list[Place]:
        """All candidates, in order of iteration."""
        n_positions, n_layers = self.shape
        return [(position, layer) for position in range(-n_positions, 0) for layer in range(n_layers)]

    @property
    def done(self) -> dict[ScoreKind, Bool[np.ndarray, "position layer"]]:
        """Which candidates have a score of every prompt."""
        return {kind: np.asarray(self.seen[kind].all(axis=-1)) for kind in SCORES}

    @property
    def complete(self) -> bool:
        """Whether every candidate has all scores."""
        return all(done.all() for done in self.done.values())

    def means(self) -> CandidateScores:
        """Each candidate's scores: means over the prompts; NaN where not computed for all of them."""
        return CandidateScores(*(self.values[kind].mean(axis=-1) for kind in SCORES))

    def prompt_scores(self) -> PromptScores:
        """The same for every prompt."""
        return PromptScores(*(self.values[kind] for kind in SCORES))

    def computed_nan(self) -> Bool[np.ndarray, "position layer"]:
        """Which candidates have a score that was computed and is NaN: whatever else is computed, they are out."""
        return np.any([(self.seen[kind] & np.isnan(self.values[kind])).any(axis=-1) for kind in SCORES], axis=0)

    def interval(self, kind: ScoreKind, place: Place) -> tuple[float, float]:
        """What a candidate's mean lies between, by the prompts that were computed."""
        partial = PartialMean(*self.bounds[kind])
        index = np.flatnonzero(self.seen[kind][place])
        partial.add(index.tolist(), self.values[kind][place][index])
        return partial.low, partial.high

    def partial(self, kind: ScoreKind) -> list[Place]:
        """Candidates of which some prompts were computed and others not."""
        return places_of(np.asarray(self.seen[kind].any(axis=-1) & ~self.seen[kind].all(axis=-1)))


def places_of(mask: Bool[np.ndarray, "position layer"]) -> list[Place]:
    """The candidates that a mask marks, in order of iteration."""
    return [(int(row) - len(mask), int(layer)) for row, layer in np.argwhere(mask)]
