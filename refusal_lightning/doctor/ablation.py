"""Ablation leaves nothing of the direction anywhere in the stream, whatever norms follow attention and MLP."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from refusal_lightning.doctor.bounds import projection_bound, projection_floor
from refusal_lightning.doctor.context import CheckContext
from refusal_lightning.doctor.finding import Finding
from refusal_lightning.doctor.passes import Ablated
from refusal_lightning.interventions import Intervention, ablation, intervene, record_activations
from refusal_lightning.models.tokens import left_pad

_POINTS = ("resid_pre", "resid_mid", "resid_post")
_FINAL = "ln_final.hook_in"


def check_ablation(material: CheckContext) -> Finding:
    """The stream's projection on an ablated direction: all blocks, the final residual, all tokens of all prompts.

    The direction is the mean difference of the prompts at the last position, in the middle of the model.
    """
    before = _before(material, material.direction)
    figure = ablated(material).projection
    # Half precision's bound may be as large as what there was: less than half of it must be left all the same.
    seen = projection_floor(material.dtype)
    bound = min(projection_bound(material.dtype, material.chat.n_layers), max(seen, before / 2))
    advice = ""
    if not figure <= bound:
        advice = (
            "an ablated direction comes back: a hook sits where a later norm or bias brings it in again, or a block "
            "writes to the stream unseen. Figures under ablation would be wrong; use another version of "
            "TransformerLens or another model, and report it with the architecture"
        )
    elif before <= seen:
        advice = "the direction was not in the stream to begin with, so this says nothing; give more prompts"
    return Finding(
        "ablation",
        f"largest projection on an ablated direction, relative to the stream ({before:.2g} before it is ablated)",
        figure,
        bound,
        "fail" if not figure <= bound else "warn" if advice else "ok",
        advice,
    )


def _before(material: CheckContext, direction: Float[Tensor, " d_model"]) -> float:
    """The same for the prompts as they are, from what is known of them: block inputs at the eoi positions."""
    streams = torch.stack([reading.resid_pre for reading in material.alone]).double()
    along = (streams @ (direction / direction.norm())).abs()
    return float((along.amax(1) / streams.norm(dim=-1).amax(1)).max())


def ablated(material: CheckContext) -> Ablated:
    """All prompts in one plain pass under ablation of the material's direction; run once."""
    if material.ablated is None:
        material.ablated = _pass_under(material, ablation(material.direction))
    return material.ablated


def _pass_under(material: CheckContext, intervention: Intervention) -> Ablated:
    """The projection is the largest |x.r|, relative to the largest norm of the stream at that token.

    Rounding is relative to the largest stream on the way: a massive activation that a late block removes leaves its
    rounding behind.
    """
    engine, n_layers = material.engine, material.chat.n_layers
    unit = material.direction / material.direction.norm()

    def along(x: Float[Tensor, "prompt token d_model"]) -> Float[Tensor, "2 prompt token"]:
        wide = x.cpu().double()  # blocks may be on several devices, or on one without float64
        return torch.stack([(wide @ unit).abs(), wide.norm(dim=-1)])

    known = engine.hook_names
    # Where attention and MLP run side by side there is no middle.
    points = [point for point in _POINTS if f"blocks.0.hook_{point}" in known]
    final: list[Tensor] = []

    def keep(x: Tensor, hook: object) -> None:
        final[:] = [along(x)]  # of the last call: NanoChat norms its embedding with the same module

    last = [(_FINAL, keep)] if _FINAL in known else []
    ids, mask = (t.to(material.input_device) for t in left_pad(material.prompts))
    with (
        intervene(engine, intervention),
        record_activations(engine, points, range(n_layers), along) as captured,
        engine.hooks(fwd_hooks=last),
    ):
        logits: Tensor = engine(ids, attention_mask=mask, logits_to_keep=1)
    seen = torch.stack([*captured.values(), *final])[..., mask.bool().cpu()]
    return Ablated(logits[:, -1].float().cpu(), float((seen[:, 0].amax(0) / seen[:, 1].amax(0)).max()))
