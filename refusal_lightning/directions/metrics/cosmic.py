"""A cosine criterion from stored activations, after COSMIC (Siu et al., arXiv:2506.00085): no tokens, no
model.

What is COSMIC's: the layers to look at are the tenth where the mean harmful and mean harmless activations at
the last position have the lowest cosine; activations are averaged over prompts and over these layers; a
candidate is good if harmful activations under ablation point where harmless ones do (here ``comply``) and
harmless activations under addition where harmful ones do (``refuse``); the score is the sum of the two
cosines.

What is ours: COSMIC runs the model under each intervention and reads its activations. Here interventions act
on the stored activations themselves, to first order: ablation takes the component along r out of every layer,
addition adds the vector at its own layer and every later one and leaves earlier ones alone; what later blocks
make of the change is not seen. Both are affine, so class means are enough. A candidate is thereby favoured
for lying close to the difference of means in the chosen layers at the last position: it is a cheap second
opinion and no substitute for intervening. Layers are read at ``resid_pre``, so the output of the last block
is not among them (COSMIC reads block outputs, the last one after the final norm), and layer 0 is left out, as
both classes agree there. COSMIC's rule on position -1 (skip layers later than other positions' median best)
is left out; its KL and last-layer filters are the caller's, through ``allowed``. COSMIC ranks its layers on
the training prompts; ``select`` gives the validation prompts for that as for the rest. With activations
captured under real interventions, ``inversion_cosine`` gives COSMIC's own two terms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from refusal_lightning.directions.vectors import is_zero, unit


@dataclass(frozen=True, eq=False)
class CosmicScores:
    """The cosine criterion of every candidate; NaN for a zero direction."""

    comply: Float[np.ndarray, "position layer"]
    """Cosine of ablated harmful with harmless activations, -1 to 1."""
    refuse: Float[np.ndarray, "position layer"]
    """Cosine of harmless activations after addition with harmful ones, -1 to 1."""
    layers: tuple[int, ...]
    """The layers compared."""

    @property
    def total(self) -> Float[np.ndarray, "position layer"]:
        """Sum of both, higher is better."""
        return self.comply + self.refuse

    def best(self, allowed: Bool[np.ndarray, "position layer"] | None = None) -> tuple[int, int] | None:
        """(position, layer) of the highest total among the allowed; None if there is none. Ties: first in
        order.
        """
        total = np.where(True if allowed is None else allowed, self.total, np.nan)
        if np.isnan(total).all():
            return None
        row, layer = np.unravel_index(np.nanargmax(total), total.shape)
        return int(row) - total.shape[0], int(layer)


def least_similar_layers(
    harmful_mean: Float[np.ndarray, "layer d_model"],
    harmless_mean: Float[np.ndarray, "layer d_model"],
    fraction: float = 0.1,
) -> tuple[int, ...]:
    """The int(fraction L) layers, at least one, with the lowest cosine between class means, layer 0 excepted."""
    cosines = np.sum(unit(harmful_mean) * unit(harmless_mean), axis=-1)
    ranked = 1 + np.argsort(cosines[1:], kind="stable")
    return tuple(sorted(int(layer) for layer in ranked[: max(1, int(fraction * len(cosines)))]))


def inversion_cosine(
    intervened: Float[np.ndarray, "*any layer d_model"],
    target: Float[np.ndarray, "layer d_model"],
    layers: Sequence[int],
) -> Float[np.ndarray, "*any"]:
    """Cosine between the means over ``layers`` of intervened and of target class means."""
    index = list(layers)
    return np.asarray(unit(intervened[..., index, :].mean(axis=-2)) @ unit(target[index].mean(axis=0)))


def cosmic_scores(
    harmful_mean: Float[np.ndarray, "layer d_model"],
    harmless_mean: Float[np.ndarray, "layer d_model"],
    directions: Float[np.ndarray, "position layer d_model"],
    layers: Sequence[int],
) -> CosmicScores:
    """The criterion for every candidate from class means at the last position (of validation prompts, best)."""
    harmful, harmless = (np.asarray(x, dtype=np.float64) for x in (harmful_mean, harmless_mean))
    units = unit(directions)
    index = np.array(layers)
    along = units @ harmful[index].mean(axis=0)
    ablated = harmful[index].mean(axis=0) - along[..., None] * units
    share = np.mean(index[None, :] >= np.arange(directions.shape[1])[:, None], axis=1)
    added = harmless[index].mean(axis=0) + share[:, None] * np.asarray(directions, dtype=np.float64)
    defined = ~is_zero(directions)
    return CosmicScores(
        comply=np.where(defined, unit(ablated) @ unit(harmless[index].mean(axis=0)), np.nan),
        refuse=np.where(defined, unit(added) @ unit(harmful[index].mean(axis=0)), np.nan),
        layers=tuple(int(layer) for layer in layers),
    )
