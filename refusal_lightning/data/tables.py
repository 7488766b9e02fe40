"""Files of prompts: JSON, JSON lines, CSV, Parquet or plain text, read into rows; messages never repeat a prompt."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from refusal_lightning.errors import UserError
from refusal_lightning.io.text import has_half_character

SUFFIXES = (".json", ".jsonl", ".csv", ".parquet", ".txt")

Row = dict[str, Any]
Where = Mapping[str, str | int | bool]
"""The value that each named column has in the rows that are kept."""


def is_table(name: str) -> bool:
    """Whether a set's name is a file's: it ends like one of the formats."""
    return name.lower().endswith(SUFFIXES)


def read_table(path: Path) -> list[Any]:
    """The rows of a file, by its ending; a text file's rows are its lines, as ``{"instruction": line}``.

    Raises FileNotFoundError where there is no file, and UserError where it can't be read as what its name says.
    """
    try:
        return _READERS[path.suffix.lower()](path)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UserError(f"dataset file {path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"dataset file {path} is not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8"
        ) from error


def to_rows(
    table: Sequence[Any],
    source: str,
    columns: Mapping[str, str | None] | None = None,
    where: Where | None = None,
) -> list[Row]:
    """Rows ``{"instruction", "category"}`` of a table, in its order.

    ``columns`` names the table's columns, ``{"instruction": ..., "category": ...}`` (default: the same names; the
    category is None where there is no such column). ``where`` keeps the rows whose columns have these values
    (as text: 1 is "1").
    ``source`` stands for the table in the messages of UserError.
    """
    if not table:
        raise UserError(f"{source} holds no rows; it should be a list of objects with an instruction")
    unknown = set(columns or {}) - {"instruction", "category"}
    if unknown:
        raise UserError(f"columns: {', '.join(sorted(unknown))} can't be mapped; only instruction and category are")
    text_column = (columns or {}).get("instruction") or "instruction"
    category_column = (columns or {}).get("category") or "category"
    for column in (columns or {}).values():
        _require_column(table, column, source)
    for column in where or {}:
        _require_column(table, column, source, "`where` takes the file's own names")
    rows = []
    for index, row in enumerate(table):
        if where and not (isinstance(row, dict) and all(_label(row.get(k)) == _label(v) for k, v in where.items())):
            continue
        text = row.get(text_column) if isinstance(row, dict) else None
        if not isinstance(text, str) or not text.strip():
            hint = _columns_hint(table) if isinstance(row, dict) and text_column not in row and index == 0 else ""
            raise UserError(f"{source}: row {index} (counted from 0) has no text in its field `{text_column}`{hint}")
        category = row.get(category_column)
        label = None if category in (None, "") else str(category)
        for column, value in ((text_column, text), (category_column, label or "")):
            require_whole(value, f"{source}: row {index} (counted from 0)", column)
        rows.append({"instruction": text, "category": label})
    if not rows:
        kept = ", ".join(f"{k} = {v!r}" for k, v in (where or {}).items())
        raise UserError(f"{source} has no row with {kept}")
    return rows


def require_whole(text: str, where: str, column: str) -> None:
    """Raise UserError for half a character: JSON can spell it, but no tokenizer reads it and no result can hold it."""
    if has_half_character(text):
        raise UserError(
            f"{where} has half a character (a lone surrogate such as \\ud83d) in its field `{column}`; remove it or "
            "give the whole one"
        )


_MAP = "say which one with `columns`, e.g. {instruction: prompt}"


def _require_column(table: Sequence[Any], column: str | None, source: str, advice: str = _MAP) -> None:
    if column is not None and not any(isinstance(row, dict) and column in row for row in table):
        raise UserError(f"{source} has no column `{column}`{_columns_hint(table, advice)}")


def _columns_hint(table: Sequence[Any], advice: str = _MAP) -> str:
    """The names of the first row's columns, cut short: a CSV file without a header would have its text there."""
    names = [str(name)[:40] for name in table[0]] if isinstance(table[0], dict) else []
    return f"; its columns are {', '.join(names[:12])}: {advice}" if names else ""


def _label(value: Any) -> str:
    return "" if value is None else str(value).strip()


def _read_json(path: Path) -> list[Any]:
    content = _parsed(path.read_text(encoding="utf-8-sig"), str(path))
    if not isinstance(content, list):
        raise UserError(f"dataset file {path} holds no rows; it should be a JSON list of objects with an instruction")
    return [{"instruction": row} if isinstance(row, str) else row for row in content]


def _read_jsonl(path: Path) -> list[Any]:
    # Only a line feed ends a line of this format; a prompt may hold what other splitting takes for one.
    lines = path.read_text(encoding="utf-8-sig").split("\n")
    return [_parsed(line, f"{path}, line {n},") for n, line in enumerate(lines, 1) if line.strip()]


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise UserError(f"dataset file {where} is not JSON ({error})") from error
    except RecursionError:
        raise UserError(f"dataset file {where} is nested too deeply; it should be a list of objects") from None


def _read_csv(path: Path) -> list[Any]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            only = (reader.fieldnames or [""])[0] if len(reader.fieldnames or []) == 1 else ""
            other = next((name for mark, name in ((";", "semicolons"), ("\t", "tabs")) if mark in only), None)
            if other:
                raise UserError(f"dataset file {path} has {other} between its columns; save it with commas")
            rows = list(reader)
        except csv.Error as error:
            raise UserError(f"dataset file {path} is not CSV, near line {reader.line_num} ({error})") from error
    for index, row in enumerate(rows):
        if None in row:
            raise UserError(
                f"dataset file {path}: row {index} (counted from 0) has more fields than the header; quote its commas"
            )
    return rows


def _read_parquet(path: Path) -> list[Any]:
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    try:
        return list(pq.read_table(path).to_pylist())
    except pa.ArrowException as error:
        raise UserError(f"dataset file {path} is not Parquet ({type(error).__name__})") from error


def _read_text(path: Path) -> list[Any]:
    lines = path.read_text(encoding="utf-8-sig").split("\n")
    return [{"instruction": line} for line in lines if line.strip()]


_READERS = {
    ".json": _read_json,
    ".jsonl": _read_jsonl,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
    ".txt": _read_text,
}
