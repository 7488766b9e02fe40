"""Alone or among others: the same prompt gives the same."""

from __future__ import annotations

from refusal_lightning.doctor.bounds import advice, judge_prompts, pass_bound
from refusal_lightning.doctor.context import CheckContext
from refusal_lightning.doctor.finding import Finding
from refusal_lightning.doctor.padding import worst
from refusal_lightning.doctor.passes import difference

_WRONG = (
    "the other prompts of a batch change this model's results. If `padding` fails too, mind its advice; else "
    "something in the model mixes rows: use batch sizes of 1 (cache, select, evaluate), and report it"
)


def check_batch(material: CheckContext) -> Finding:
    """Every prompt alone, against itself in one left-padded batch of all."""
    chat = material.chat
    together = material.read(material.prompts)
    figures = [difference(one, alone) for one, alone in zip(together, material.alone, strict=True)]
    bound = pass_bound(material.dtype, chat.n_layers)
    verdict = judge_prompts(figures, bound, material.dtype)
    return Finding(
        f"batch, {chat.dtype}",
        f"{len(figures)} prompts, each alone and in a batch of {len(figures)}: logits and resid_pre, relative",
        worst(figures),
        bound,
        verdict,
        advice(verdict, chat.dtype, _WRONG),
    )
