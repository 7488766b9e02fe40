"""Start a forward pass in the middle: blocks below a layer are stepped over and its input is given.

TransformerBridge's own ``start_at_layer`` still executes the lower blocks; stepping over them is what saves the work.
Masks, position embeddings, final norm and any logit cap remain the model's own, so this holds for every family.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from jaxtyping import Float
from torch import Tensor

from refusal_lightning.models.engines.protocol import Engine


@contextmanager
def skip_blocks(engine: Engine, layer: int, resid_pre: Float[Tensor, "prompt token d_model"]) -> Iterator[None]:
    """During the body a forward pass enters at ``layer`` with ``resid_pre``; run it with ``use_cache=False``.

    Hooks of the blocks below ``layer`` do not fire; those of ``layer`` and above do. The blocks are themselves
    again at the end, also after an exception. A block that is stepped over gives back what it always does, a tensor or
    a tuple; what else it does (write keys that a later block reads) it does not.
    """
    lower = list(engine.blocks)[:layer]

    def step_over(index: int) -> Callable[..., Any]:
        return lambda *args, **kwargs: engine.facts.output(index, resid_pre)

    try:
        for index, block in enumerate(lower):
            vars(block)["forward"] = step_over(index)  # setattr would reach through to the wrapped module
        if layer == 0:
            with engine.hooks(fwd_hooks=[("blocks.0.hook_resid_pre", lambda activation, hook: resid_pre)]):
                yield
        else:
            yield
    finally:
        for block in lower:
            vars(block).pop("forward", None)
