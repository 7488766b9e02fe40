"""What only notebooks have and need: a kernel, packages for tables and labelled arrays."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from refusal_lightning.errors import UserError

if TYPE_CHECKING:
    from pandas import DataFrame


def in_notebook() -> bool:
    """Whether a notebook's kernel runs this process."""
    return "ipykernel" in sys.modules


def import_for(what: str, package: str) -> Any:
    """A package of the extra ``notebook``. Raises UserError, which says what it is needed for, where it is missing."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise UserError(
            f"{what} needs a package that is not installed: pip install 'refusal-lightning[notebook]' ({package})"
        ) from error


def frame(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> DataFrame:
    """Rows as a DataFrame with these columns, also where there is no row. Raises UserError without pandas."""
    pandas = import_for("a table", "pandas")
    return pandas.DataFrame([dict(row) for row in rows], columns=list(columns))
