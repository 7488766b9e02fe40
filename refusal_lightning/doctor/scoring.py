"""The passes of `select` give what plain ones give: under ablation and addition too, which is what it scores."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from refusal_lightning.directions.selection.schedule import ScoreKind, ScoreTask
from refusal_lightning.doctor.ablation import ablated
from refusal_lightning.doctor.bounds import advice, judge_groups, pass_bound
from refusal_lightning.doctor.context import CheckContext
from refusal_lightning.doctor.finding import Finding
from refusal_lightning.doctor.padding import worst
from refusal_lightning.doctor.passes import relative_change
from refusal_lightning.inference.shortcuts import exact_shortcuts
from refusal_lightning.interventions import addition
from refusal_lightning.models.engines.protocol import Engine
from refusal_lightning.modules.scores import CandidateBatch, Part, ScoredPrompts, ScoreModule

_WRONG = (
    "scores of candidates would be wrong: a shortcut of `select` (the shared beginning, stepping over blocks, a "
    "direction for each row) is not exact on this architecture. Use another model or other versions of "
    "transformers and TransformerLens, and report it with the architecture"
)


def check_scores(material: CheckContext) -> Finding:
    """Logits of bypass, induce and KL passes as `select` runs them, against plain passes of the whole prompts.

    The candidate is the prompts' mean difference at the middle layer. Bypass and KL are scores of the same passes, of
    harmful and of harmless prompts; here one is of all.
    """
    direction, layer = material.direction, material.middle
    everything = [*material.prompts, *material.others]
    exact_shortcuts(material.engine, everything, material.input_device)
    under_ablation = ablated(material).logits
    under_addition = material.plain_logits(material.prompts, addition(direction, layer, 1.0))[:, -1]
    figures: dict[str, list[float]] = {}
    plain: dict[ScoreKind, Tensor] = {"induce": under_addition, "kl": under_ablation}
    for kind, expected in plain.items():
        logits = _pass_logits(material, kind)
        figures[kind] = [relative_change(*pair) for pair in zip(logits, expected, strict=True)]
    bound = pass_bound(material.dtype, material.chat.n_layers)
    verdict = judge_groups(figures.values(), bound, material.dtype)
    each = f"induce {worst(figures['induce']):.1e}, bypass and KL {worst(figures['kl']):.1e}"
    return Finding(
        "scores",
        f"{len(material.prompts)} prompts, passes of `select` against plain ones at layer {layer}: logits ({each})",
        worst([figure for of_kind in figures.values() for figure in of_kind]),
        bound,
        verdict,
        advice(verdict, material.chat.dtype, _WRONG),
    )


def _pass_logits(material: CheckContext, kind: ScoreKind) -> list[Float[Tensor, " vocab"]]:
    """Next-token logits that a score of the prompts is made of."""
    chat = material.chat
    place = (-1, material.middle)
    directions = torch.zeros(1, chat.n_layers, chat.d_model, dtype=torch.float64)
    directions[place] = material.direction
    baseline = torch.stack([reading.logits for reading in material.alone])
    unbounded = (np.full(len(baseline), -np.inf), np.full(len(baseline), np.inf))
    module = _Recorded(material, directions, ScoredPrompts(material.prompts, unbounded, baseline), kind)
    module.on_predict_start()
    module.predict_step(ScoreTask(kind, (place,)))
    module.on_predict_end()
    return [module.logits[row] for row in range(len(material.prompts))]


class _Recorded(ScoreModule):
    """Scores outside of a Trainer, with the logits that they are made of: rounding has a bound there."""

    def __init__(
        self,
        material: CheckContext,
        directions: Float[Tensor, "position layer d_model"],
        prompts: ScoredPrompts,
        kind: ScoreKind,
    ) -> None:
        chat = material.chat  # scores themselves are not looked at, so where no refusal tokens are named any will do
        chat = chat if chat.refusal_ids else replace(chat, refusal_ids=[0])
        super().__init__(chat, directions, prompts, kind, batch_size=len(prompts.token_ids))
        self.material = material
        self.logits: dict[int, Tensor] = {}

    @property
    def engine(self) -> Engine:
        return self.material.engine

    @property
    def input_device(self) -> torch.device:
        return self.material.input_device

    def pass_logits(self, candidates: CandidateBatch, part: Part) -> Float[Tensor, "row vocab"]:
        logits = super().pass_logits(candidates, part)
        self.logits.update(zip(part.bucket.prompts, logits.float().cpu(), strict=True))
        return logits
