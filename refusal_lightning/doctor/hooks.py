"""Hooks come off, also after an exception in the middle of a pass, and leave the model as it was."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from refusal_lightning.doctor.bounds import pass_bound
from refusal_lightning.doctor.context import CheckContext
from refusal_lightning.doctor.finding import Finding
from refusal_lightning.doctor.passes import relative_change
from refusal_lightning.interventions import Intervention, ablation, addition, intervene, skip_blocks
from refusal_lightning.models.tokens import left_pad


class _PlantedError(Exception):
    """Raised by a hook in the middle of a pass."""


def check_hooks(material: CheckContext) -> Finding:
    """Hooks on the model, and its reading of a prompt, after passes that a hook's exception ends."""
    engine, n_layers = material.engine, material.chat.n_layers
    prompt = material.prompts[0]
    n_before = engine.count_hooks()
    before = _logits(material, prompt)
    vector = torch.ones(material.chat.d_model)
    middle = n_layers // 2
    stream = torch.zeros(1, len(prompt), material.chat.d_model, dtype=material.dtype, device=material.input_device)
    for change in (ablation(vector), addition(vector, 0, 1.0)):
        _failing_pass(material, prompt, change)
    with skip_blocks(engine, middle, stream):
        _failing_pass(material, prompt, addition(vector, middle, 1.0))
    left = engine.count_hooks()
    # A hook that is left may raise again, so the model is read only where none is.
    changed = 0.0 if left else relative_change(_logits(material, prompt), before)
    if n_before:
        advice = f"{n_before} hooks were on the model before any was set: something else in this process holds it"
    elif left or not changed <= pass_bound(material.dtype, n_layers):
        advice = (
            "hooks stay on after an error, so every later figure is of a changed model; restart the process after any "
            "error, use another version of TransformerLens, and report it"
        )
    else:
        advice = ""
    return Finding(
        "hooks",
        "hooks left after three interventions that end in an error"
        + ("" if left else f" (what the model gives has changed by {changed:.2g})"),
        float(left),
        0.0,
        "fail" if advice else "ok",
        advice,
    )


def check_none_left(material: CheckContext) -> Finding:
    """Hooks on the model, and blocks that are stepped over, while nothing asks for any."""
    engine = material.engine
    left = engine.count_hooks() + sum("forward" in vars(block) for block in engine.blocks)
    advice = (
        "something changes every figure of this model: a hook that was not taken off, or one of somebody else in this "
        "process. Start the process again; where that does not help, report it"
    )
    compared = "hooks on the model, and blocks that are stepped over, after the passes of the other checks"
    return Finding("no hook left", compared, float(left), 0.0, "fail" if left else "ok", advice if left else "")


def _logits(material: CheckContext, prompt: list[int]) -> Float[Tensor, " vocab"]:
    ids, mask = (t.to(material.input_device) for t in left_pad([prompt]))
    logits: Tensor = material.engine(ids, attention_mask=mask, logits_to_keep=1)[0, -1]
    return logits.float().cpu()


def _failing_pass(material: CheckContext, prompt: list[int], change: Intervention) -> None:
    """A pass under an intervention that an exception ends at the last block."""

    def fail(activation: object, hook: object) -> None:
        raise _PlantedError

    ids, mask = (t.to(material.input_device) for t in left_pad([prompt]))
    last = material.chat.n_layers - 1
    ending = Intervention("error", lambda n_layers: [(f"blocks.{last}.hook_resid_post", fail)])  # type: ignore[list-item]
    try:
        with intervene(material.engine, change), intervene(material.engine, ending):
            material.engine(ids, attention_mask=mask, logits_to_keep=1)
    except _PlantedError:
        return
    raise RuntimeError(f"a hook at the end of block {last} was never called")
