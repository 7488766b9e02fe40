"""The paper's splits (section 2.2, appendix A): what trains, validates and tests, and no prompt in two of them."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from refusal_lightning.data.tables import Row
from refusal_lightning.errors import UserError

HARMFUL_TEST = ("jailbreakbench", "harmbench_test", "strongreject")
HARMFUL_VAL = ("harmbench_val",)
HARMFUL_TRAIN = ("advbench", "malicious_instruct", "tdc2023")
HARMLESS = ("alpaca",)
# The authors draw 128 of AdvBench without a seed, then drop what val and test hold: 117 were left. Drawing 117 of the
# prompts that neither holds has the same distribution, and every seed gives their counts.
DRAWN = {"advbench": 117}


def harmful_splits(sets: Mapping[str, Sequence[Row]], seed: int) -> dict[str, list[Row]]:
    """``train``, ``val``, ``test`` of the processed sets; val leaves out what test holds, train what either holds."""
    rng = random.Random(seed)
    test = [row for name in HARMFUL_TEST for row in sets[name]]
    val = _without([row for name in HARMFUL_VAL for row in sets[name]], test)
    train: list[Row] = []
    for name in HARMFUL_TRAIN:
        free = _without(sets[name], [*val, *test])
        train += rng.sample(free, min(DRAWN[name], len(free))) if name in DRAWN else free
    return {"train": train, "val": val, "test": test}


def harmless_splits(sets: Mapping[str, Sequence[Row]], seed: int) -> dict[str, list[Row]]:
    """``train``, ``val`` and ``test`` of 60, 20 and 20 percent, as the authors draw them: seed 42 gives theirs."""
    return three_way([row for name in HARMLESS for row in sets[name]], seed)


def three_way(rows: Sequence[Row], seed: int) -> dict[str, list[Row]]:
    """Shuffle and cut into 60, 20 and 20 percent; the shares are rounded down, the rest goes to test.

    An instruction that comes twice is taken once.
    """
    shuffled = list({row["instruction"]: row for row in rows}.values())
    random.Random(seed).shuffle(shuffled)
    first = int(0.6 * len(shuffled))
    second = first + int(0.2 * len(shuffled))
    return {"train": shuffled[:first], "val": shuffled[first:second], "test": shuffled[second:]}


def require_disjoint(splits: Mapping[str, Sequence[Row]]) -> None:
    """Raise UserError where an instruction is in two of the splits."""
    owner: dict[str, str] = {}
    for name, rows in splits.items():
        for index, row in enumerate(rows):
            other = owner.setdefault(row["instruction"], name)
            if other != name:
                raise UserError(f"splits: row {index} of {name} is in {other} too; no instruction may be in two splits")


def _without(rows: Sequence[Row], others: Sequence[Row]) -> list[Row]:
    taken = {row["instruction"] for row in others}
    return [row for row in rows if row["instruction"] not in taken]
