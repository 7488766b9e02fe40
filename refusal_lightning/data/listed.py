"""Sets of prompts that are lists of this process: what a notebook gives in place of a file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from refusal_lightning.data.tables import Row, to_rows
from refusal_lightning.errors import UserError
from refusal_lightning.io.hashing import digest

PREFIX = "list:"
"""How the names of such sets begin; a digest of the rows follows."""
_lists: dict[str, list[Row]] = {}


def list_set(rows: Iterable[str | Mapping[str, Any]], what: str) -> str:
    """The name by which ``load_dataset`` finds these instructions, texts or ``{"instruction", "category"}``.

    The same rows have the same name. Raises UserError, which calls them ``what``, for rows that are none.
    """
    if isinstance(rows, str | Mapping) or not isinstance(rows, Iterable):
        raise UserError(f"{what} is a list of instructions; this is of type {type(rows).__name__}")
    table = [{"instruction": row} if isinstance(row, str) else row for row in rows]
    taken = to_rows(table, what)
    name = f"{PREFIX}{digest(taken)}"
    _lists[name] = taken
    return name


def is_listed(name: str) -> bool:
    """Whether a set is a list of this process."""
    return name in _lists


def load_listed(name: str) -> list[Row]:
    """The rows of a list. Raises UserError where this process knows none of this name."""
    if name not in _lists:
        raise UserError(f"the set {name} was a list of another process; give the list again")
    return [dict(row) for row in _lists[name]]
