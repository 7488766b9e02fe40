"""The table of candidates: three scores for each (position, layer), and its rows as the files hold them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from refusal_lightning.errors import UserError

Place = tuple[int, int]
"""(position, layer) of a candidate, the position negative."""
ScoreKind = Literal["bypass", "induce", "kl"]
SCORES: tuple[ScoreKind, ...] = ("bypass", "induce", "kl")
"""The kinds of score, in the order of ``CandidateScores``."""
AUTHORS_KEYS: dict[ScoreKind, str] = {"bypass": "refusal_score", "induce": "steering_score", "kl": "kl_div_score"}
"""Their names in files, which are the authors'."""


class Candidate(NamedTuple):
    """One (position, layer) with its scores."""

    position: int
    """Token position counted from the end of the prompt, negative."""
    layer: int
    """Block whose input (resid_pre) the direction was read from."""
    bypass: float
    """Bypass score: mean refusal score on harmful prompts under ablation; NaN if missing."""
    induce: float
    """Induce score: mean refusal score on harmless prompts under activation addition."""
    kl: float
    """KL score: mean KL(baseline, ablated) on harmless prompts, nats."""

    @property
    def place(self) -> Place:
        """(position, layer)."""
        return self.position, self.layer

    def row(self) -> dict[str, Any]:
        """Its row in ``direction_evaluations.json``, with the authors' keys."""
        scores = {key: getattr(self, kind) for kind, key in AUTHORS_KEYS.items()}
        return {"position": self.position, "layer": self.layer, **scores}


@dataclass(frozen=True, eq=False)
class CandidateScores:
    """Scores of all candidates; row ``i`` of an array is position ``i - n_positions``; NaN: not computed."""

    bypass: Float[np.ndarray, "position layer"]
    """Bypass score, lower is better."""
    induce: Float[np.ndarray, "position layer"]
    """Induce score, higher is better."""
    kl: Float[np.ndarray, "position layer"]
    """KL score, lower is better."""

    def __post_init__(self) -> None:
        shapes = {kind: np.shape(self[kind]) for kind in SCORES}
        if len(set(shapes.values())) != 1 or len(next(iter(shapes.values()))) != 2:
            raise ValueError(f"scores must share one [position, layer] shape, got {shapes}")

    def __getitem__(self, kind: ScoreKind) -> Float[np.ndarray, "position layer"]:
        """All candidates' scores of one kind."""
        scores: np.ndarray = getattr(self, kind)
        return scores

    @property
    def shape(self) -> tuple[int, int]:
        """(n_positions, n_layers)."""
        n_positions, n_layers = self.bypass.shape
        return n_positions, n_layers

    def __iter__(self) -> Iterator[Candidate]:
        """All candidates in the order of iteration that breaks ties: position outer from -n, layer inner."""
        n_positions, n_layers = self.shape
        for position in range(-n_positions, 0):
            for layer in range(n_layers):
                yield self.at(position, layer)

    def at(self, position: int, layer: int) -> Candidate:
        """The candidate at a negative position and a layer, its scores as Python floats."""
        values = (float(self[kind][position, layer]) for kind in SCORES)
        return Candidate(position, layer, *values)


def rows(scores: CandidateScores) -> list[dict[str, Any]]:
    """One dict per candidate, in order of iteration, with the keys of ``direction_evaluations.json``.

    A score that is NaN stays a float NaN, as in the authors' files.
    """
    return [candidate.row() for candidate in scores]


def from_rows(table: Any) -> CandidateScores:
    """The inverse of ``rows``, for a table read from JSON; row order is free, null stands for NaN.

    Raises UserError if a row lacks a key or holds something other than a number, if a candidate comes twice,
    or if the table is not every position -n..-1 at every layer 0..L-1 (a filtered list, for example).
    """
    if not isinstance(table, Sequence) or isinstance(table, str) or not table:
        raise UserError("the score table must be a non-empty list of rows (as in direction_evaluations.json)")
    found: dict[Place, tuple[float, ...]] = {}
    for number, row in enumerate(table):
        if not isinstance(row, Mapping):
            raise UserError(f"score table, row {number}: expected an object, got {row!r:.80}")
        missing = [key for key in ("position", "layer", *AUTHORS_KEYS.values()) if key not in row]
        if missing:
            raise UserError(f"score table, row {number}: lacks {', '.join(missing)}")
        place = (_index(row, "position", number), _index(row, "layer", number))
        if place[0] >= 0 or place[1] < 0:
            raise UserError(f"score table, row {number}: position must be negative and layer 0 or more, got {place}")
        if place in found:
            raise UserError(f"score table, row {number}: position {place[0]}, layer {place[1]} appears twice")
        found[place] = tuple(_number(row, AUTHORS_KEYS[kind], number) for kind in SCORES)
    n_positions = -min(position for position, _ in found)
    n_layers = 1 + max(layer for _, layer in found)
    for position in range(-n_positions, 0):
        for layer in range(n_layers):
            if (position, layer) not in found:
                raise UserError(
                    f"the score table has {len(found)} rows and is not rectangular: position {position}, "
                    f"layer {layer} is missing; give the full table, not the filtered list"
                )
    ordered = np.array([found[place] for place in sorted(found)], dtype=np.float64)
    return CandidateScores(*np.ascontiguousarray(ordered.T).reshape(3, n_positions, n_layers))


def _index(row: Mapping[str, Any], key: str, number: int) -> int:
    value = row[key]
    if isinstance(value, bool) or not isinstance(value, int):
        raise UserError(f"score table, row {number}: {key} must be a whole number, got {value!r:.80}")
    return value


def _number(row: Mapping[str, Any], key: str, number: int) -> float:
    value = row[key]
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"score table, row {number}: {key} must be a number or null, got {value!r:.80}")
    return float(value)
