"""Reading the residual stream: hooks that record, and always come off."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from refusal_lightning.errors import UserError
from refusal_lightning.models.engines.protocol import Engine

Take = Callable[[Tensor], Tensor]


@contextmanager
def record_activations(
    engine: Engine, hook_points: Sequence[str], layers: Sequence[int], take: Take
) -> Iterator[dict[tuple[str, int], Tensor]]:
    """Record hook points of blocks during the body.

    Yields a dict that fills during a forward pass: ``captured[hook_point, layer] = take(activation)``, where
    ``take`` cuts what is wanted out of a ``[prompt, token, d_model]`` tensor. The cut is cloned, since a later
    operation of the model may write into the memory it shares.
    """
    captured: dict[tuple[str, int], Tensor] = {}

    def recorder(point: str, layer: int) -> Callable[[Tensor, Any], None]:
        def record(activation: Tensor, hook: Any) -> None:
            captured[point, layer] = take(activation).clone()

        return record

    pairs = [(f"blocks.{layer}.hook_{point}", recorder(point, layer)) for point in hook_points for layer in layers]
    known = engine.hook_names
    for name, _ in pairs:
        if name not in known:
            raise UserError(f"this model's architecture has no hook {name}; leave its hook point out")
    with engine.hooks(fwd_hooks=pairs):
        yield captured
