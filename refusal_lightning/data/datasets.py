"""Sets of prompts by name: the splits of a dataset folder, processed sets, users' own files, sets on the Hub."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, overload

from refusal_lightning.data import listed
from refusal_lightning.data.hub import PREFIX, load_hub, parse_hub
from refusal_lightning.data.sources import NAMED_SETS, SOURCES
from refusal_lightning.data.tables import SUFFIXES, Where, is_table, read_table, to_rows
from refusal_lightning.errors import UserError
from refusal_lightning.io.shipped import ROOT, SAMPLE, locate

SPLITS = ("train", "val", "test")
ROLES = ("harmful", "harmless")
"""The places that two sets of prompts take; their labels are the user's words (data.labels)."""
SAMPLE_ROOT = ROOT / SAMPLE

_NO_SPLIT = "set data.root to the folder that holds splits/ (`data prepare` makes the paper's)"

Columns = Mapping[str, str | None] | None


class NoSuchSet(UserError):
    """There is no set of this name."""


@overload
def load_dataset_split(
    label: str, split: str, instructions_only: Literal[True], root: str | Path = ..., *, columns: Columns = ...
) -> list[str]: ...
@overload
def load_dataset_split(
    label: str,
    split: str,
    instructions_only: Literal[False] = False,
    root: str | Path = ...,
    *,
    columns: Columns = ...,
) -> list[dict[str, Any]]: ...
def load_dataset_split(
    label: str,
    split: str,
    instructions_only: bool = False,
    root: str | Path = SAMPLE_ROOT,
    *,
    columns: Columns = None,
) -> list[Any]:
    """Rows ``{"instruction", "category"}`` of a split, or just the instructions, in the file's order.

    ``label`` is harmful, harmless or another label, ``split`` is train, val or test; ``root`` holds the folder
    ``splits`` with LABEL_SPLIT.json (or .jsonl, .csv, .parquet, .txt). ``columns`` as in ``load_dataset``.
    """
    path = _split_file(label, split, locate(root))
    if path is None:
        raise NoSuchSet(
            f"no split {label}_{split} under {Path(root) / 'splits'}: take harmful or harmless (or a label that has "
            "files of its own there), and train, val or test"
        )
    missing = f"dataset file {path} does not exist; {_NO_SPLIT}"
    return _from_file(path, instructions_only, missing, columns)


@overload
def load_dataset(
    name: str,
    instructions_only: Literal[True],
    root: str | Path = ...,
    *,
    columns: Columns = ...,
    where: Where | None = ...,
) -> list[str]: ...
@overload
def load_dataset(
    name: str,
    instructions_only: Literal[False] = False,
    root: str | Path = ...,
    *,
    columns: Columns = ...,
    where: Where | None = ...,
) -> list[dict[str, Any]]: ...
def load_dataset(
    name: str,
    instructions_only: bool = False,
    root: str | Path = SAMPLE_ROOT,
    *,
    columns: Columns = None,
    where: Where | None = None,
) -> list[Any]:
    """Rows ``{"instruction", "category"}`` of a set, or just the instructions, in the set's order.

    ``name`` is a file (.json, .jsonl, .csv, .parquet, .txt), ``hub:org/name[@revision][:config][:split]``, a split such
    as ``harmful_test`` or a set ``processed/NAME.json`` under ``root``, a set that the registry knows (``xstest``), or
    ``list:DIGEST``, a list of this process (``list_set``).
    ``columns`` says which columns of a user's own file, split or Hub dataset are the instruction and the category;
    ``where`` keeps the rows whose columns have the given values.
    """
    if name.startswith(PREFIX):
        return _taken(load_hub(parse_hub(name)), f"dataset {name}", instructions_only, columns, where)
    if name.startswith(listed.PREFIX):
        return _taken(listed.load_listed(name), f"dataset {name}", instructions_only, None, where)
    if is_table(name):
        path = locate(name).expanduser()
        return _from_file(path, instructions_only, f"dataset file {path} does not exist", columns, where)
    label, _, split = name.rpartition("_")
    root = locate(root)
    if split_file := _split_file(label, split, root):
        missing = f"dataset file {split_file} does not exist; {_NO_SPLIT}"
        return _from_file(split_file, instructions_only, missing, columns, where)
    path = root / "processed" / f"{name}.json"
    if path.is_file() and path.parent.name == "processed" and "/" not in name:
        return _from_file(path, instructions_only, "", None, where)
    if name in NAMED_SETS:
        known = NAMED_SETS[name]
        table = load_hub(known.hub)
        return _taken(table, f"dataset {name}", instructions_only, known.columns, {**known.where, **(where or {})})
    raise NoSuchSet(
        f"dataset {name!r} is neither a split (harmful_test, ...) nor a file {path}{_advice(name)}; "
        f"a file's name ends in {', '.join(SUFFIXES)}"
    )


def _split_file(label: str, split: str, root: str | Path) -> Path | None:
    """The file of a split; the paper's own have one even where it does not exist, None where nothing fits."""
    if split not in SPLITS or not label or "/" in label:
        return None
    files = [Path(root) / "splits" / f"{label}_{split}{suffix}" for suffix in SUFFIXES]
    there = [path for path in files if path.is_file()]
    if len(there) > 1:
        raise UserError(f"there are both {there[0]} and {there[1].name}; keep the one that is meant")
    return there[0] if there else files[0] if label in ROLES else None


def _from_file(
    path: Path, instructions_only: bool, missing: str, columns: Columns, where: Where | None = None
) -> list[Any]:
    try:
        table = read_table(path)
    except FileNotFoundError:
        raise NoSuchSet(missing) from None
    return _taken(table, f"dataset file {path}", instructions_only, columns, where)


def _taken(
    table: Sequence[Any], source: str, instructions_only: bool, columns: Columns, where: Where | None
) -> list[Any]:
    rows = to_rows(table, source, columns, where)
    return [row["instruction"] for row in rows] if instructions_only else rows


def _advice(name: str) -> str:
    if name in SOURCES:
        return "; `data prepare` makes it"
    near = difflib.get_close_matches(name, [*SOURCES, *NAMED_SETS], n=1)
    return f"; did you mean {near[0]}?" if near else ""
