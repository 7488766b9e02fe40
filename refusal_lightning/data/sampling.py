"""Drawing instructions exactly as the authors' pipeline does, whatever the number of processes."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from refusal_lightning.data.datasets import ROLES, Columns, load_dataset_split
from refusal_lightning.errors import UserError


@dataclass(frozen=True)
class Draw:
    """The instructions of a run, in the order drawn."""

    harmful_train: list[str]
    harmless_train: list[str]
    harmful_val: list[str]
    harmless_val: list[str]
    rng: random.Random
    """The generator after these draws; the authors draw their harmless test set from the same stream."""

    def sets(self) -> dict[str, list[str]]:
        """The four sets by name, e.g. ``harmful_train``."""
        return {
            "harmful_train": self.harmful_train,
            "harmless_train": self.harmless_train,
            "harmful_val": self.harmful_val,
            "harmless_val": self.harmless_val,
        }


def draw_instructions(
    root: str | Path,
    n_train: int,
    n_val: int,
    seed: int,
    *,
    labels: Sequence[str] = ROLES,
    columns: Columns = None,
    load: Callable[[str], list[str]] | None = None,
) -> Draw:
    """Draw harmful train, harmless train, harmful val and harmless val, in this order, from one seeded stream.

    ``labels`` are the two kinds of prompts by the names of their files, the one in the place of harmful first;
    ``columns`` as in ``load_dataset``; ``load`` gives a split's instructions by its
    name (default: from ``root``). The paper's ``random.seed(42)`` followed by ``random.sample`` gives the same
    lists, here without touching the process's global generator. Raises UserError where a split is too small.
    """
    rng = random.Random(seed)
    drawn: list[list[str]] = []
    for split, count in (("train", n_train), ("val", n_val)):
        for label in labels:
            name = f"{label}_{split}"
            if load is not None:
                instructions = load(name)
            else:
                instructions = load_dataset_split(label, split, instructions_only=True, root=root, columns=columns)
            if count > len(instructions):
                place = "" if load is not None else f" under {root}"
                raise UserError(
                    f"data.n_{split} is {count}, but {name}{place} has {len(instructions)} rows; "
                    f"set data.n_{split} to {len(instructions)} or less"
                )
            drawn.append(rng.sample(instructions, count))
    harmful_train, harmless_train, harmful_val, harmless_val = drawn
    return Draw(harmful_train, harmless_train, harmful_val, harmless_val, rng)
