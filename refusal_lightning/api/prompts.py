"""From lists of instructions to a configuration's data section."""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from refusal_lightning.api.settings import section
from refusal_lightning.config import DataConfig
from refusal_lightning.data.listed import list_set
from refusal_lightning.errors import UserError

Instruction = str | Mapping[str, Any]
"""A text, or ``{"instruction": ..., "category": ...}``."""
Prompts = Iterable[Instruction] | Mapping[str, Iterable[Instruction]]
"""Instructions, or those of ``{"train": [...], "val": [...]}``."""

NOWHERE = os.devnull
"""The root of a data section whose sets are all lists."""
TRAIN_SHARE = 0.8
"""Of a list that is shorter than the default numbers of prompts take."""


def data_section(data: DataConfig | Mapping[str, Any] | None) -> DataConfig:
    """A data section as it is, or from a mapping of its keys; None gives the default one. Raises UserError."""
    return data if isinstance(data, DataConfig) else section(DataConfig, data or {}, "data")


def data_of_lists(harmful: Prompts, harmless: Prompts, given: Mapping[str, Any]) -> DataConfig:
    """A data section whose training and validation sets are lists.

    ``given`` are its keys n_train, n_val, seed and labels, as far as they are given. ``{"train", "val"}`` are drawn
    from as a configuration's sets are. A plain list is divided first: shuffled by the seed, the first ``n_train`` are
    for training, the next ``n_val`` for validation. Raises UserError where a list is too short.
    """
    config = section(DataConfig, {**given, "root": NOWHERE}, "data")
    sets: dict[str, Any] = {}
    lengths: dict[str, int] = {}
    for label, prompts in zip(config.labels, (harmful, harmless), strict=True):
        divided = _divided(prompts, label, config, given)
        for split, rows in divided.items():
            sets[f"{label}_{split}"] = list_set(rows, f"{label} ({split})")
            lengths[split] = min(lengths.get(split, len(rows)), len(rows))
    fitting = {f"n_{split}": n for split, n in lengths.items() if f"n_{split}" not in given}
    fewer = {key: min(n, getattr(config, key)) for key, n in fitting.items()}
    return replace(config, sets=sets, **fewer)


def with_test_sets(
    data: DataConfig, harmful: Iterable[Instruction] | None, harmless: Iterable[Instruction] | None
) -> DataConfig:
    """The data section with test splits that are lists, each where it is given. Raises UserError."""
    sets = dict(data.sets)
    for label, rows in zip(data.labels, (harmful, harmless), strict=True):
        if rows is not None:
            sets[f"{label}_test"] = list_set(rows, f"{label} (test)")
    return replace(data, sets=sets)


def _divided(
    prompts: Prompts, label: str, config: DataConfig, given: Mapping[str, Any]
) -> dict[str, Sequence[Instruction]]:
    """Instructions for training and for validation."""
    if isinstance(prompts, Mapping):
        if set(prompts) != {"train", "val"}:
            raise UserError(f'{label} has the sets {", ".join(map(str, prompts))}; give a list, or "train" and "val"')
        return {split: list(prompts[split]) for split in ("train", "val")}
    if isinstance(prompts, str) or not isinstance(prompts, Iterable):
        raise UserError(f"{label} is a list of instructions; this is of type {type(prompts).__name__}")
    rows = list(prompts)
    n_train, n_val = config.n_train, config.n_val
    if len(rows) < n_train + n_val:
        if "n_train" in given or "n_val" in given:
            raise UserError(
                f"{label} has {len(rows)} instructions, and {n_train} are to train and {n_val} to validate with; give "
                "more, or smaller n_train and n_val"
            )
        n_train = round(TRAIN_SHARE * len(rows))
        n_val = len(rows) - n_train
    if not n_train or not n_val:
        raise UserError(f"{label} has {len(rows)} instructions; give at least 2, and better some dozens")
    shuffled = random.Random(config.seed).sample(rows, n_train + n_val)
    return {"train": shuffled[:n_train], "val": shuffled[n_train:]}
