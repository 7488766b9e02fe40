"""Texts to measure loss on: plain ones, or instructions with their answers; the paper's two by name."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refusal_lightning.data.files import sha256_of, write_whole
from refusal_lightning.data.hub import PREFIX, HubSet, hub_rows, load_hub, parse_hub
from refusal_lightning.data.sources import SOURCES
from refusal_lightning.data.tables import is_table, read_table, require_whole
from refusal_lightning.errors import UserError

PILE = HubSet("monology/pile-uncopyrighted", None, "train")
ALPACA_FILE = "raw/alpaca_data.json"
"""Where `data prepare` puts Alpaca with its answers."""
SHUFFLE_SEED = 42
"""The authors shuffle Alpaca with it before they take its first rows."""

# The columns that may hold each part, the likeliest first.
_TEXT = ("text",)
_INSTRUCTION = ("instruction", "prompt", "question")
_RESPONSE = ("response", "output", "completion", "answer")


@dataclass(frozen=True)
class Text:
    """A text whose tokens are scored: all of a plain one's but the first, or those of the answer to an instruction."""

    text: str
    instruction: str | None = None


def load_texts(
    name: str,
    count: int,
    root: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    kept: Path | None = None,
) -> list[Text]:
    """The first ``count`` texts of a set, fewer where it has fewer.

    ``name`` is ``pile`` or ``alpaca`` (the paper's), a file (.json, .jsonl, .csv, .parquet, .txt) or
    ``hub:org/name[@revision][:config][:split]``, which is streamed. ``columns`` names the set's columns, ``{"text":
    ...}`` or ``{"instruction": ..., "response": ...}`` (default: found by their usual names). ``kept`` is a folder in
    which streamed texts are kept, so that they are asked for once. Raises UserError.
    """
    if name == "alpaca":
        return _alpaca(count, Path(root))
    hub = PILE if name == "pile" else parse_hub(name) if name.startswith(PREFIX) else None
    if hub is not None:
        return _streamed(hub, count, columns, kept)
    if not is_table(name):
        raise UserError(f"texts {name!r} are neither pile nor alpaca, nor a file, nor hub:org/name:config:split")
    path = Path(name).expanduser()
    try:
        table = read_table(path)
    except FileNotFoundError:
        raise UserError(f"dataset file {path} does not exist") from None
    if path.suffix.lower() == ".txt":
        columns = {"text": "instruction"}  # a text file's lines
    return _texts(table[:count], f"dataset file {path}", columns)


def _alpaca(count: int, root: Path) -> list[Text]:
    """Alpaca's rows without input, in the authors' order."""
    import datasets

    path, hub = root / ALPACA_FILE, SOURCES["alpaca"].hub
    rows: list[Any] = read_table(path) if path.is_file() or hub is None else load_hub(hub)
    shuffled = datasets.Dataset.from_list(rows).shuffle(seed=SHUFFLE_SEED)
    chosen = (row for row in shuffled if not row["input"].strip())
    return _texts(list(itertools.islice(chosen, count)), "Alpaca", {"instruction": "instruction", "response": "output"})


def _streamed(hub: HubSet, count: int, columns: Mapping[str, str] | None, kept: Path | None) -> list[Text]:
    place = None if kept is None else kept / f"{_file_name(hub, columns)}-{count}.jsonl"
    if place is not None and place.is_file():
        rows: list[Any] = [json.loads(line) for line in place.read_text(encoding="utf-8").splitlines()]
    else:
        rows = list(itertools.islice(hub_rows(hub), count))
        if place is not None:
            wanted = _columns(rows, str(hub), columns).values()
            lines = (json.dumps({column: row.get(column) for column in wanted}) for row in rows)
            place.parent.mkdir(parents=True, exist_ok=True)
            write_whole(place, "".join(f"{line}\n" for line in lines).encode())
    return _texts(rows, f"dataset {hub}", columns)


def _file_name(hub: HubSet, columns: Mapping[str, str] | None) -> str:
    """The set's name for people, and a hash of all that says which texts these are, each part in its own place."""
    readable = "".join(c if c.isalnum() else "-" for c in hub.repo)
    parts = [hub.repo, hub.revision, hub.config, hub.split, sorted((columns or {}).items())]
    return f"{readable}-{sha256_of(json.dumps(parts).encode())[:16]}"


def _texts(rows: Iterable[Any], source: str, columns: Mapping[str, str] | None) -> list[Text]:
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
