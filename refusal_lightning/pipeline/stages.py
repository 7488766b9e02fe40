"""The stages that `run` knows, in the order in which they are run."""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from refusal_lightning.errors import UserError


@dataclass(frozen=True)
class Stage:
    """A stage's function, and what it takes to call it."""

    target: str
    """As `module:name`; imported when its turn has come, since most import torch."""
    in_all_processes: bool = False
    """Whether the processes of a run share its work; else the first one does it."""
    needs_model: bool = False
    """Whether it may run the model; else it needs no weights."""

    def load(self) -> Callable[..., Any]:
        """Its function, for processes that have met already. Its parameters are sections of the configuration."""
        module, name = self.target.split(":")
        function: Callable[..., Any] = inspect.unwrap(getattr(importlib.import_module(module), name))
        return function


STAGES = {
    "cache": Stage("refusal_lightning.stages.cache.stage:cache", in_all_processes=True, needs_model=True),
    "select": Stage("refusal_lightning.stages.select.stage:select", in_all_processes=True, needs_model=True),
    "evaluate": Stage("refusal_lightning.stages.evaluate.stage:evaluate", in_all_processes=True, needs_model=True),
    "capability": Stage("refusal_lightning.stages.capability.stage:capability", needs_model=True),
    "analyze": Stage("refusal_lightning.stages.analyze.stage:analyze"),
    "report": Stage("refusal_lightning.stages.report:report"),
}
"""By name. What all processes share comes first, then what needs the model, so that both can be let go early."""

DEFAULT = ("cache", "select", "evaluate", "analyze", "report")
"""`capability` is left to who asks for it: it needs lm-evaluation-harness."""


def in_order(names: Sequence[str]) -> list[str]:
    """The stages of these names, each once, as they follow each other. Raises UserError for a name that is none's."""
    for name in names:
        if name not in STAGES:
            near = difflib.get_close_matches(name, STAGES, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(STAGES)}"
            raise UserError(f"stages: there is no stage {name!r} that can be run; {hint}")
    if not names:
        raise UserError(f"stages: none is named; there are {', '.join(STAGES)}")
    return [name for name in STAGES if name in names]
