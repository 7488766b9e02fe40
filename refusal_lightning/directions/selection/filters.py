"""The rules that drop candidates before the best is chosen (paper appendix C), and who fell to which."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from refusal_lightning.directions.selection.candidates import SCORES, CandidateScores, Place
from refusal_lightning.directions.vectors import ZERO_NORM
from refusal_lightning.errors import UserError

RULES = ("zero_norm", "pruned_layer", "nan", "induce", "kl")
"""The reasons for which a candidate is dropped, in the order in which they are looked at.

The order does not change what survives. It is the staged order (no forward pass, then induce, then KL), so
that a staged and an exhaustive run name the same reason for the same candidate.
"""


@dataclass(frozen=True)
class Thresholds:
    """The paper's filter. None switches a rule off."""

    kl: float | None = 0.1
    """Largest KL score that stays, nats."""
    induce: float | None = 0.0
    """Smallest induce score that stays, log-odds."""
    prune_layers: float | None = 0.2
    """Share of the layers, counted from the last, whose candidates are dropped; 0 to below 1."""

    def __post_init__(self) -> None:
        for key, value in (("kl_threshold", self.kl), ("induce_threshold", self.induce)):
            if value is not None and math.isnan(value):
                raise UserError(f"{key}: must be a number, or null to switch the rule off; got NaN")
        if self.prune_layers is not None and not 0 <= self.prune_layers < 1:
            raise UserError(f"prune_layers: must be at least 0 and below 1, or null; got {self.prune_layers}")

    def first_pruned_layer(self, n_layers: int) -> int:
        """The first layer that is dropped: int(L (1 - prune)), in the authors' floating-point arithmetic."""
        return n_layers if self.prune_layers is None else int(n_layers * (1.0 - self.prune_layers))


PAPER_THRESHOLDS = Thresholds()
"""The paper's values: KL 0.1, induce 0, the last fifth of the layers."""


def zero_norm(
    scores: CandidateScores, norms: Float[np.ndarray, "position layer"] | None = None
) -> Bool[np.ndarray, "position layer"]:
    """Candidates whose direction is zero (``ZERO_NORM``; ours: the paper's code leaves them to its induce
    rule).

    The input of layer 0 is the token's embedding, so at true template positions both classes agree and the
    mean difference is exactly 0. Without ``norms`` (a published table) it shows in the scores: ablating
    nothing changes nothing, so at layer 0 a KL score of exactly 0 stands for a zero direction.
    """
    if norms is not None:
        return np.asarray(norms) <= ZERO_NORM
    is_zero = np.zeros(scores.shape, dtype=bool)
    is_zero[:, 0] = scores.kl[:, 0] == 0
    return is_zero


def pruned_layer(shape: tuple[int, int], thresholds: Thresholds) -> Bool[np.ndarray, "position layer"]:
    """Candidates in the last layers, which the paper leaves out as too close to the unembedding."""
    n_positions, n_layers = shape
    return np.tile(np.arange(n_layers) >= thresholds.first_pruned_layer(n_layers), (n_positions, 1))


def failures(
    scores: CandidateScores, thresholds: Thresholds, norms: Float[np.ndarray, "position layer"] | None = None
) -> dict[str, Bool[np.ndarray, "position layer"]]:
    """For each rule of ``RULES``, the candidates that it alone would drop.

    Comparisons are on the values as given (float32 stays float32). NaN fails only the rule "nan".
    """
    nan = np.zeros(scores.shape, dtype=bool)
    for kind in SCORES:
        nan |= np.isnan(scores[kind])
    never = np.zeros(scores.shape, dtype=bool)
    return {
        "zero_norm": zero_norm(scores, norms),
        "pruned_layer": pruned_layer(scores.shape, thresholds),
        "nan": nan,
        "induce": never if thresholds.induce is None else scores.induce < thresholds.induce,
        "kl": never if thresholds.kl is None else scores.kl > thresholds.kl,
    }


def dropped_by(
    scores: CandidateScores,
    thresholds: Thresholds,
    norms: Float[np.ndarray, "position layer"] | None = None,
    ruled_out: Mapping[Place, str] | None = None,
) -> dict[Place, str]:
    """The first reason to drop each candidate that is dropped, by (position, layer), in order of iteration.

    Scores are looked at in the staged order: a candidate whose induce score fails is dropped for that,
    whether or not its other scores are there. ``ruled_out`` names the candidates that staged scoring proved
    out before their sum was complete (see ``schedule``), with the rule, or "beaten" for a bypass score that
    cannot be the lowest.
    """
    fails = failures(scores, thresholds, norms)
    steps = (
        ("zero_norm", fails["zero_norm"]),
        ("pruned_layer", fails["pruned_layer"]),
        ("nan", np.isnan(scores.induce)),
        ("induce", fails["induce"]),
        ("nan", np.isnan(scores.kl)),
        ("kl", fails["kl"]),
        ("nan", np.isnan(scores.bypass)),
    )
    n_positions, n_layers = scores.shape
    known = ruled_out or {}
    reasons: dict[Place, str] = {}
    for position in range(-n_positions, 0):
        for layer in range(n_layers):
            reason = known.get((position, layer)) or next((rule for rule, mask in steps if mask[position, layer]), None)
            if reason is not None:
                reasons[position, layer] = reason
    return reasons
