"""What the two kinds of prompts are called, wherever a text names them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class Labels(NamedTuple):
    """The labels of the two kinds of prompts, by the place that they take."""

    harmful: str = "harmful"
    harmless: str = "harmless"

    @classmethod
    def of(cls, labels: Sequence[str]) -> Labels:
        """Those of ``data.labels``."""
        first, second = labels
        return cls(first, second)

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> Labels:
        """Those that a run's record tells of; harmful and harmless where it tells of none."""
        data = (record.get(stage, {}).get("config", {}).get("data", {}) for stage in ("evaluate", "select"))
        return next((cls.of(some["labels"]) for some in data if "labels" in some), cls())

    @property
    def are_of_refusal(self) -> bool:
        """Whether they say that the first kind is to be refused and the second is not."""
        return self == REFUSAL

    def named(self, text: str) -> str:
        """A text with its ``{harmful}`` and ``{harmless}`` in these words; other braces stay."""
        return text.replace("{harmful}", self.harmful).replace("{harmless}", self.harmless)


REFUSAL = Labels()
"""The kinds of prompts that the paper's method is about."""
