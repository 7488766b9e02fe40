"""Results as JSON and CSV."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from refusal_lightning.io.files import write_text


def write_json(path: Path, value: Any) -> None:
    """Write JSON, indented; numbers that JSON has no word for (NaN, infinities) become null."""
    text = json.dumps(plain(value), indent=4, ensure_ascii=False, allow_nan=False) + "\n"
    write_text(path, text)


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows of the same keys as CSV with a header, floats to the last digit; NaN and infinities become empty.

    A text that a spreadsheet would take for a formula gets an apostrophe in front.
    """
    text = io.StringIO()
    table = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    table.writeheader()
    for row in rows:
        table.writerow({key: _no_formula(value) for key, value in plain(dict(row)).items()})
    write_text(path, text.getvalue())


def _no_formula(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def plain(value: Any) -> Any:
    """A value of the kinds that JSON has: tuples as lists, NaN and infinities as None."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
