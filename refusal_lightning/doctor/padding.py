"""Padded or not: the same prompt gives the same."""

from __future__ import annotations

from refusal_lightning.doctor.bounds import advice, judge_prompts, pass_bound
from refusal_lightning.doctor.context import CheckContext
from refusal_lightning.doctor.finding import Finding
from refusal_lightning.doctor.passes import Reading, difference

_WRONG = (
    "padding changes this model's results: its code ignores the attention mask or the position ids. Use batch "
    "sizes of 1 (cache, select, evaluate), or another version of transformers; report it with the architecture"
)

PADS = 7
"""Tokens of padding: few enough for any context, and odd, so that an off-by-one in positions shows."""


def check_padding(material: CheckContext) -> Finding:
    """Every prompt alone, against itself behind padding (still alone, so that padding is all that differs)."""
    padded = [material.read([prompt], _pads(material, [prompt]))[0] for prompt in material.prompts]
    return _finding(material, padded, "behind")


def check_padded_batch(material: CheckContext) -> Finding:
    """Every prompt alone, against itself in one batch behind padding: ``padding`` and ``batch`` in one pass."""
    prompts = material.prompts
    return _finding(material, material.read(prompts, _pads(material, prompts)), "together behind")


def _pads(material: CheckContext, prompts: list[list[int]]) -> int:
    """How much padding the context has room for."""
    longest = max(map(len, prompts))
    return min(PADS, (material.chat.context or longest + PADS) - longest)


def _finding(material: CheckContext, padded: list[Reading], how: str) -> Finding:
    chat = material.chat
    figures = [difference(one, alone) for one, alone in zip(padded, material.alone, strict=True)]
    bound = pass_bound(material.dtype, chat.n_layers)
    verdict = judge_prompts(figures, bound, material.dtype)
    return Finding(
        f"padding, {chat.dtype}",
        f"{len(figures)} prompts, each alone and {how} {PADS} tokens of padding: logits and resid_pre, relative",
        worst(figures),
        bound,
        verdict,
        advice(verdict, chat.dtype, _WRONG),
    )


def worst(figures: list[float]) -> float:
    """The largest figure; NaN if there is one."""
    return max(figures, key=lambda figure: (figure != figure, figure))
