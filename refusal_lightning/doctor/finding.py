"""What a check found: one figure against one bound."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """What was compared, the figure, the bound it was held to, and what to do where it does not hold.

    ``figure`` is None where nothing could be measured. ``at_least`` turns the bound round. ``advice`` is empty only
    where all is well. ``detail`` holds further lines (a diff), never a text of a dataset.
    """

    name: str
    compared: str
    figure: float | None
    bound: float
    verdict: Verdict
    advice: str = ""
    at_least: bool = False
    detail: tuple[str, ...] = ()

    def text(self) -> str:
        """One line, and below it what to do and the details, if any."""
        # Shares and counts as they are, rounding errors as powers of ten.
        figure = "-" if self.figure is None else _short(self.figure)
        sign = ">=" if self.at_least else "<="
        line = f"{self.verdict:<4}  {self.name:<23}{figure:>8} {sign} {_short(self.bound):<8} {self.compared}"
        return "\n".join([line, *(f"      {more}" for more in (self.advice, *self.detail) if more)])


def _short(value: float) -> str:
    return f"{value:.1e}" if 0 < abs(value) < 0.01 else f"{value:.3g}"
