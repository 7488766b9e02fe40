"""Texts to measure loss on, plain ones or instructions with their answers: of rows, of files, streamed from the Hub."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refusal_lightning.data.files import write_whole
from refusal_lightning.data.hub import HubSet, hub_rows
from refusal_lightning.data.tables import read_table, require_whole
from refusal_lightning.errors import UserError
from refusal_lightning.io.hashing import sha256_of

# The columns that may hold each part, the likeliest first.
_TEXT = ("text",)
_INSTRUCTION = ("instruction", "prompt", "question")
_RESPONSE = ("response", "output", "completion", "answer")


@dataclass(frozen=True)
class Text:
    """A text whose tokens are scored: all of a plain one's but the first, or those of the answer to an instruction."""

    text: str
    instruction: str | None = None


@dataclass(frozen=True)
class TextRequest:
    """Which texts of a set are wanted: the first ``count``, fewer where it has fewer."""

    count: int
    root: Path
    """The data's folder."""
    columns: Mapping[str, str] | None = None
    """The set's: ``{"text": ...}`` or ``{"instruction": ..., "response": ...}`` (None: found by their usual names)."""
    kept: Path | None = None
    """A folder in which streamed texts are kept, so that they are asked for once."""


def texts_from_file(path: Path, request: TextRequest) -> list[Text]:
    """The rows of a table, or the lines of a text file. Raises UserError."""
    try:
        table = read_table(path)
    except FileNotFoundError:
        raise UserError(f"dataset file {path} does not exist") from None
    columns = {"text": "instruction"} if path.suffix.lower() == ".txt" else request.columns  # a text file's lines
    return texts_of(table[: request.count], f"dataset file {path}", columns)


def streamed_texts(hub: HubSet, request: TextRequest) -> list[Text]:
    """The rows of a set on the Hub, no more than are wanted; kept where the request says so. Raises UserError."""
    columns, kept = request.columns, request.kept
    place = None if kept is None else kept / f"{_file_name(hub, columns)}-{request.count}.jsonl"
    if place is not None and place.is_file():
        rows: list[Any] = [json.loads(line) for line in place.read_text(encoding="utf-8").splitlines()]
    else:
        rows = list(itertools.islice(hub_rows(hub), request.count))
        if place is not None:
            wanted = _columns(rows, str(hub), columns).values()
            lines = (json.dumps({column: row.get(column) for column in wanted}) for row in rows)
            place.parent.mkdir(parents=True, exist_ok=True)
            write_whole(place, "".join(f"{line}\n" for line in lines).encode())
    return texts_of(rows, f"dataset {hub}", columns)


def _file_name(hub: HubSet, columns: Mapping[str, str] | None) -> str:
    """The set's name for people, and a hash of all that says which texts these are, each part in its own place."""
    readable = "".join(c if c.isalnum() else "-" for c in hub.repo)
    parts = [hub.repo, hub.revision, hub.config, hub.split, sorted((columns or {}).items())]
    return f"{readable}-{sha256_of(json.dumps(parts).encode())[:16]}"


def texts_of(rows: Iterable[Any], source: str, columns: Mapping[str, str] | None) -> list[Text]:
    """Rows with a text, or an instruction and its response, in the given columns or those of usual names.

    ``source`` is what messages call them. Raises UserError.
    """
    rows = list(rows)
    found = _columns(rows, source, columns)
    texts = []
    for index, row in enumerate(rows):
        parts = {part: row.get(column) for part, column in found.items()}
        wrong = [found[part] for part, value in parts.items() if not isinstance(value, str)]
        if wrong:
            raise UserError(f"{source}: row {index} has no text in its field `{wrong[0]}`")
        for part, value in parts.items():
            require_whole(value, f"{source}: row {index}", found[part])
        texts.append(Text(parts["text"]) if "text" in parts else Text(parts["response"], parts["instruction"]))
    return texts


def _columns(rows: list[Any], source: str, columns: Mapping[str, str] | None) -> dict[str, str]:
    """The column of each part: ``text``, or ``instruction`` and ``response``."""
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise UserError(
            f"{source} holds no rows; it should be a list of objects with a text, or instruction and response"
        )
    there = set(rows[0])
    given = dict(columns or {})
    if given and set(given) not in ({"text"}, {"instruction", "response"}):
        raise UserError(f"{source}: its columns are either text, or instruction and response; not {', '.join(given)}")
    missing = [column for column in given.values() if column not in there]
    if not missing:
        if given:
            return given
        plain = next((name for name in _TEXT if name in there), None)
        if plain:
            return {"text": plain}
        pair = [next((name for name in names if name in there), None) for names in (_INSTRUCTION, _RESPONSE)]
        if all(pair):
            return {"instruction": str(pair[0]), "response": str(pair[1])}
    names = ", ".join(str(name)[:40] for name in list(rows[0])[:12])
    lacks = f"no column `{missing[0]}`" if missing else "neither a text nor an instruction with its response"
    raise UserError(f"{source} has {lacks}; its columns are {names}: say which in data.sets, with `columns`")
