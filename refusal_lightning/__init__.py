"""Cache residual-stream activations once, then find, select and test the refusal direction offline.

The method is that of "Refusal in Language Models Is Mediated by a Single Direction" (Arditi et al.,
arXiv:2406.11717). Three stages, one way: ``cache`` -> ``select`` -> ``evaluate``, on the command line and from Python:
``import refusal_lightning as rl`` (docs/api.md). A name is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from refusal_lightning.io import side_effects

if TYPE_CHECKING:  # for editors and type checkers: a line for each entry of _WHERE
    from refusal_lightning.api.acting import ablate as ablate
    from refusal_lightning.api.acting import add as add
    from refusal_lightning.api.acting import intervene as intervene
    from refusal_lightning.api.caching import Cached as Cached
    from refusal_lightning.api.caching import cache as cache
    from refusal_lightning.api.evaluating import evaluate as evaluate
    from refusal_lightning.api.model import Model as Model
    from refusal_lightning.api.model import load_model as load_model
    from refusal_lightning.api.registering import register as register
    from refusal_lightning.api.run import Run as Run
    from refusal_lightning.api.run import open_run as open_run
    from refusal_lightning.api.selecting import analyze as analyze
    from refusal_lightning.api.selecting import select as select
    from refusal_lightning.directions.direction import Direction as Direction
    from refusal_lightning.errors import UserError as UserError
    from refusal_lightning.io.console import verbose as verbose
    from refusal_lightning.plugins import load_plugins as load_plugins
    from refusal_lightning.stages.analyze.analysis import AnalysisResult as AnalysisResult
    from refusal_lightning.stages.evaluate.evaluation import EvaluationResult as EvaluationResult
    from refusal_lightning.stages.select.result import SelectionResult as SelectionResult
    from refusal_lightning.store import ActivationStore as ActivationStore

side_effects.switch_off()

__version__ = "0.1.0"

_WHERE = {
    "ActivationStore": "refusal_lightning.store:ActivationStore",
    "AnalysisResult": "refusal_lightning.stages.analyze.analysis:AnalysisResult",
    "Cached": "refusal_lightning.api.caching:Cached",
    "Direction": "refusal_lightning.directions.direction:Direction",
    "EvaluationResult": "refusal_lightning.stages.evaluate.evaluation:EvaluationResult",
    "Model": "refusal_lightning.api.model:Model",
    "Run": "refusal_lightning.api.run:Run",
    "SelectionResult": "refusal_lightning.stages.select.result:SelectionResult",
    "UserError": "refusal_lightning.errors:UserError",
    "ablate": "refusal_lightning.api.acting:ablate",
    "add": "refusal_lightning.api.acting:add",
    "analyze": "refusal_lightning.api.selecting:analyze",
    "cache": "refusal_lightning.api.caching:cache",
    "evaluate": "refusal_lightning.api.evaluating:evaluate",
    "intervene": "refusal_lightning.api.acting:intervene",
    "load_model": "refusal_lightning.api.model:load_model",
    "load_plugins": "refusal_lightning.plugins:load_plugins",
    "open_run": "refusal_lightning.api.run:open_run",
    "register": "refusal_lightning.api.registering:register",
    "select": "refusal_lightning.api.selecting:select",
    "verbose": "refusal_lightning.io.console:verbose",
}
"""The API: each public name, and where it is (``module:attribute``). docs/api.md has them all."""

__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _WHERE[name].partition(":")
    found = globals()[name] = getattr(importlib.import_module(module), attribute)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE})
