"""The residual stream is the sum of its writes: what attention and MLP hooks see is what is added."""

from __future__ import annotations

import torch

from refusal_lightning.doctor.bounds import sum_bound
from refusal_lightning.doctor.context import CheckContext
from refusal_lightning.doctor.finding import Finding
from refusal_lightning.doctor.padding import worst
from refusal_lightning.interventions import record_activations
from refusal_lightning.models.tokens import left_pad

_POINTS = ("resid_pre", "attn_out", "mlp_out", "resid_post")


def check_writes(material: CheckContext) -> Finding:
    """resid_pre + attn_out + mlp_out against resid_post, and resid_post against the next block's resid_pre.

    Of all blocks at the eoi positions of all prompts; the difference's norm relative to the largest term's.
    """
    engine, n_layers = material.engine, material.chat.n_layers
    ids, mask = (t.to(material.input_device) for t in left_pad(material.prompts))
    n = material.chat.n_positions
    with record_activations(engine, _POINTS, range(n_layers), lambda x: x[:, -n:].float().cpu()) as captured:
        engine(ids, attention_mask=mask, logits_to_keep=1)
    figures = []
    for layer in range(n_layers):
        terms = [captured[point, layer] for point in _POINTS[:3]]
        after = captured["resid_post", layer]
        size = torch.stack([x.norm(dim=-1) for x in [*terms, after]]).amax(0).clamp(min=1e-30)
        figures.append(float(((sum(terms) - after).norm(dim=-1) / size).max()))
        if layer + 1 < n_layers:
            figures.append(float(((captured["resid_pre", layer + 1] - after).norm(dim=-1) / size).max()))
    figure, bound = worst(figures), sum_bound(material.dtype)
    return Finding(
        "writes",
        f"resid_pre + attn_out + mlp_out = resid_post = the next resid_pre, {n_layers} blocks, {len(ids)} prompts",
        figure,
        bound,
        "ok" if figure <= bound else "fail",
        ""
        if figure <= bound
        else "hooks on this architecture's attention and MLP outputs do not see what is added to the stream, so "
        "ablation would be incomplete and attn_out or mlp_out in the store wrong. Use another version of "
        "TransformerLens (pip install -U transformer-lens) or another model; report it with the architecture",
    )
