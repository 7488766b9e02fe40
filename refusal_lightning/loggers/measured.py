"""What stages have to tell a log: what they found, and how much their loops did in which time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

Curve = Mapping[int, float]
"""A value by a whole number, as the layer."""


@dataclass(frozen=True)
class Measured:
    """What a stage found, as loggers take it. What is None, NaN or infinite is left out."""

    scalars: Mapping[str, float | None] = field(default_factory=dict)
    curves: Mapping[str, Curve] = field(default_factory=dict)
    """Each with an axis of its own, which is the logger's step."""


@dataclass(frozen=True)
class Work:
    """What predict loops did, in all processes."""

    done: Mapping[str, int] = field(default_factory=dict)
    """By unit: prompts, tokens, ..."""
    batches: int = 0
    """In the first process."""
    seconds: float = 0.0

    def __add__(self, other: Work) -> Work:
        done = Counter(self.done) + Counter(other.done)
        return Work(done, self.batches + other.batches, self.seconds + other.seconds)
