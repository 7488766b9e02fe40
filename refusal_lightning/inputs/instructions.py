"""Sets of instructions by name, as the configuration says where they are."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from refusal_lightning.config import DataConfig, SetConfig
from refusal_lightning.data import load_dataset, load_dataset_split
from refusal_lightning.data.datasets import SPLITS, NoSuchSet
from refusal_lightning.data.listed import is_listed
from refusal_lightning.data.tables import is_table
from refusal_lightning.errors import UserError
from refusal_lightning.io.shipped import locate


def rows_of(name: str, data: DataConfig) -> list[dict[str, Any]]:
    """Rows ``{"instruction", "category"}`` of a set by its name, wherever the configuration says that it is."""
    given = data.sets.get(name)
    label, _, split = name.rpartition("_")
    own = given if isinstance(given, SetConfig) else SetConfig(given or name)
    try:
        if given is None and label in data.labels and split in SPLITS:
            return load_dataset_split(label, split, root=data.root, columns=data.columns)
        return load_dataset(own.source, root=data.root, columns=own.columns or data.columns, where=own.where)
    except NoSuchSet as error:
        if given is not None or not data.sets:
            raise
        near = difflib.get_close_matches(name, data.sets, n=1)
        there = f"; did you mean {near[0]}?" if near else ""
        raise UserError(f"{error}; your data.sets has {', '.join(data.sets)}{there}") from error


def instructions_of(name: str, data: DataConfig) -> list[str]:
    """The instructions of a set, in its order."""
    return [row["instruction"] for row in rows_of(name, data)]


def is_at_hand(name: str, data: DataConfig) -> bool:
    """Whether a set that need not be there can be read, and without asking the Hub."""
    given = data.sets.get(name)
    source = given.source if isinstance(given, SetConfig) else given
    if source is not None:
        return is_listed(source) or (not source.startswith("hub:") and locate(source).is_file())
    return (locate(data.root) / "splits" / f"{name}.json").is_file()


def plain_name(name: str) -> str:
    """A set's name as part of a file's name: files without folder and ending, nothing but letters, digits, ``_.-``."""
    stem = Path(name).stem if is_table(name) else name.removeprefix("hub:")
    return re.sub(r"[^\w.-]+", "-", stem, flags=re.ASCII).strip(".-") or "set"


def label_and_split(name: str, labels: Sequence[str]) -> tuple[str, str]:
    """Label and split in a set's name, such as harmful_train; empty where it has none."""
    label, _, split = name.rpartition("_")
    return (label, split) if label in labels and split in SPLITS else ("", "")
