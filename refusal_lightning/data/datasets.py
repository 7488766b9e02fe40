"""Reading instruction files: ``splits/{harmful,harmless}_{train,val,test}.json`` and ``processed/NAME.json``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, overload

from refusal_lightning.errors import UserError

SPLITS = ("train", "val", "test")
HARMTYPES = ("harmful", "harmless")
SAMPLE_ROOT = Path(__file__).parents[2] / "dataset" / "sample"


@overload
def load_dataset_split(
    harmtype: str, split: str, instructions_only: Literal[True], root: str | Path = ...
) -> list[str]: ...
@overload
def load_dataset_split(
    harmtype: str, split: str, instructions_only: Literal[False] = False, root: str | Path = ...
) -> list[dict[str, Any]]: ...
def load_dataset_split(
    harmtype: str, split: str, instructions_only: bool = False, root: str | Path = SAMPLE_ROOT
) -> list[Any]:
    """Rows ``{"instruction", "category"}`` of a split, or just the instructions, in the file's order.

    ``harmtype`` is harmful or harmless, ``split`` is train, val or test; ``root`` holds the folder ``splits``.
    """
    if harmtype not in HARMTYPES or split not in SPLITS:
        raise UserError(f"no split {harmtype}_{split}: take harmful or harmless, and train, val or test")
    return _read(Path(root) / "splits" / f"{harmtype}_{split}.json", instructions_only)


@overload
def load_dataset(name: str, instructions_only: Literal[True], root: str | Path = ...) -> list[str]: ...
@overload
def load_dataset(
    name: str, instructions_only: Literal[False] = False, root: str | Path = ...
) -> list[dict[str, Any]]: ...
def load_dataset(name: str, instructions_only: bool = False, root: str | Path = SAMPLE_ROOT) -> list[Any]:
    """Rows of a set by name: a split such as ``harmful_test``, or ``processed/NAME.json`` under ``root``."""
    harmtype, _, split = name.partition("_")
    if harmtype in HARMTYPES and split in SPLITS:
        return _read(Path(root) / "splits" / f"{name}.json", instructions_only)
    path = Path(root) / "processed" / f"{name}.json"
    if not path.is_file() or path.parent.name != "processed" or "/" in name:
        raise UserError(f"dataset {name!r} is neither a split (harmful_test, ...) nor a file {path}")
    return _read(path, instructions_only)


def _read(path: Path, instructions_only: bool) -> list[Any]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"dataset file {path} does not exist; set data.root to the folder that holds splits/"
        ) from None
    except OSError as error:
        raise UserError(f"dataset file {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"dataset file {path} is not JSON ({error})") from error
    if not isinstance(rows, list) or not rows:
        raise UserError(
            f"dataset file {path} holds no rows; it should be a JSON list of objects with an instruction"
        )
    for index, row in enumerate(rows):
        # The text itself is never repeated in a message: it may be a benchmark's.
        instruction = row.get("instruction") if isinstance(row, dict) else None
        if not isinstance(instruction, str) or not instruction.strip():
            raise UserError(f"dataset file {path}: row {index} has no text in its field `instruction`")
    if instructions_only:
        return [row["instruction"] for row in rows]
    return [{**row, "category": row.get("category")} for row in rows]
