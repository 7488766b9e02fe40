"""What a registry entry for a judge says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from refusal_lightning.judges.config import JudgeSettings
from refusal_lightning.judges.sources.local import LocalLoader
from refusal_lightning.judges.verdict import Judge


@dataclass(frozen=True)
class JudgeSpec:
    """How a judge is made, and what its verdicts depend on."""

    make: Callable[[JudgeSettings, LocalLoader | None], Judge]
    """From the settings and, where models can be run on this machine, what loads them. Raises UserError."""
    depends_on: tuple[str, ...] = ("paper",)
    """The keys of the settings that change verdicts, and not only the pace: verdicts under others are kept apart."""
