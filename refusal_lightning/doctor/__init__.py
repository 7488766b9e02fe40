"""Checks of a user's own model before any number is reported: one file per check, each gives a ``Finding``."""

from __future__ import annotations

from refusal_lightning.doctor.context import CheckContext
from refusal_lightning.doctor.finding import Finding, Verdict

__all__ = ["CheckContext", "Finding", "Verdict"]
