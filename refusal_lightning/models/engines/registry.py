"""Engines that are faster than the bridge: the first that agrees with it on a model is the one that decodes.

Nobody chooses one by name: which are right is found out on the model itself, and all that are right give the same. To
add one, add an entry.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from refusal_lightning.models.engines.agreement import agrees
from refusal_lightning.models.engines.bridge import BridgeEngine
from refusal_lightning.models.engines.native import native_engine
from refusal_lightning.models.engines.protocol import Engine
from refusal_lightning.registry import Registry

ENGINES: Registry[Callable[[BridgeEngine], Engine]] = Registry(
    "engine",
    {
        "sdpa": partial(native_engine, attention="sdpa"),
        "eager": partial(native_engine, attention="eager"),
    },
)
"""By name, fastest first: each makes an engine around the bridge's weights, or raises where it cannot."""


def fast_engine(reference: BridgeEngine) -> Engine:
    """The fastest engine that agrees with the bridge; the bridge itself where no other does."""
    for build in ENGINES.values():
        try:
            made = build(reference)
            if agrees(made, reference):
                return made
        except Exception:  # whatever an architecture's code makes of this, the bridge can be relied on
            continue
    return reference
