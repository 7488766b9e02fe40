"""What this program is called, in usages and advice."""

from __future__ import annotations

import sys
from pathlib import Path

SCRIPT = "refusal-lightning"
"""The command that an installation brings."""


def program() -> str:
    """The program as it was called: by its own name, or as a module of Python."""
    return SCRIPT if Path(sys.argv[0]).stem == SCRIPT else "python -m refusal_lightning"
