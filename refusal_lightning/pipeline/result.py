"""What a whole run came to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class StageResult:
    """What one stage came to in this process."""

    result: Any
    """What the stage returns: a `CacheResult`, `SelectionResult` by estimator, an `EvaluationResult` and so on; None
    from a stage that was another process's."""
    seconds: float
    """Of the clock, all of the stage."""


@dataclass(frozen=True)
class RunResult:
    """What a run's stages came to."""

    stages: Mapping[str, StageResult]
    """By name, in the order in which they ran."""

    @property
    def seconds(self) -> float:
        """Of all stages together."""
        return sum(stage.seconds for stage in self.stages.values())
