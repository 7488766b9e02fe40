"""Texts to measure loss on: plain ones, or instructions with their answers; sets by name, files, sets on the Hub."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refusal_lightning.data.files import write_whole
from refusal_lightning.data.hub import PREFIX, HubSet, hub_rows, load_hub, parse_hub
from refusal_lightning.data.sources import SOURCES
from refusal_lightning.data.tables import is_table, read_table, require_whole
from refusal_lightning.errors import UserError
from refusal_lightning.io.hashing import sha256_of
from refusal_lightning.registry import Registry

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


@dataclass(frozen=True)
class LossSet:
    """A set of texts that has a name of its own."""

    label: str
    """What tables call it."""
    load: Callable[[TextRequest], list[Text]] | None
    """Gives its texts, and raises UserError; None: they are the baseline's own completions of the harmless sets."""


def load_texts(
    name: str,
    count: int,
    root: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    kept: Path | None = None,
) -> list[Text]:
    """The first ``count`` texts of a set, fewer where it has fewer.

    ``name`` is one of ``LOSS_SETS``, a file (.json, .jsonl, .csv, .parquet, .txt) or
    ``hub:org/name[@revision][:config][:split]``, which is streamed; for the rest see ``TextRequest``. Raises UserError.
    """
    request = TextRequest(count, Path(root), columns, kept)
    known = {known: one.load for known, one in LOSS_SETS.items() if one.load is not None}
    if name in known:
        return known[name](request)
    if name.startswith(PREFIX):
        return _streamed(parse_hub(name), request)
    if is_table(name):
        return _from_file(Path(name).expanduser(), request)
    raise UserError(f"texts {name!r} are neither {' nor '.join(known)}, nor a file, nor hub:org/name:config:split")


def _from_file(path: Path, request: TextRequest) -> list[Text]:
    try:
        table = read_table(path)
    except FileNotFoundError:
        raise UserError(f"dataset file {path} does not exist") from None
    lines = path.suffix.lower() == ".txt"
    return _texts(table[: request.count], f"dataset file {path}", {"text": "instruction"} if lines else request.columns)


def _pile(request: TextRequest) -> list[Text]:
    return _streamed(PILE, request)


def _alpaca(request: TextRequest) -> list[Text]:
    """Alpaca's rows without input, in the authors' order."""
    import datasets

    path, hub = request.root / ALPACA_FILE, SOURCES["alpaca"].hub
    rows: list[Any] = read_table(path) if path.is_file() or hub is None else load_hub(hub)
    shuffled = datasets.Dataset.from_list(rows).shuffle(seed=SHUFFLE_SEED)
    chosen = itertools.islice((row for row in shuffled if not row["input"].strip()), request.count)
    return _texts(chosen, "Alpaca", {"instruction": "instruction", "response": "output"})


LOSS_SETS: Registry[LossSet] = Registry(
    "set of texts",
    {
        "pile": LossSet("pile", _pile),
        "alpaca": LossSet("alpaca", _alpaca),
        "alpaca_custom_completions": LossSet("own harmless answers", None),  # the authors' key in loss_evals
    },
)
"""The texts that a configuration may name, beside files and sets on the Hub."""


def of_the_baseline(name: str) -> bool:
    """Whether a set's texts are the baseline's own completions, which are there once they were made."""
    return name in LOSS_SETS and LOSS_SETS[name].load is None


def _streamed(hub: HubSet, request: TextRequest) -> list[Text]:
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
