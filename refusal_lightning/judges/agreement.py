"""Several judges side by side: how far they agree beyond chance, and on which rows they do not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any


def cohen_kappa(first: Sequence[bool], second: Sequence[bool]) -> float | None:
    """Agreement beyond chance: 1 is full, 0 is what chance gives; None where it is not defined.

    It is not where there are no rows, or where both judges give all rows the same verdict: chance alone then agrees.
    """
    n = len(first)
    agree = sum(x == y for x, y in zip(first, second, strict=True))
    # In whole numbers, so that a full agreement is exactly 1: n^2 times the agreement that chance gives.
    by_chance = sum(first) * sum(second) + (n - sum(first)) * (n - sum(second))
    return None if by_chance == n * n else (n * agree - by_chance) / (n * n - by_chance)


def agreement(verdicts: Mapping[str, Sequence[bool | None]]) -> list[dict[str, Any]]:
    """For every two judges: Cohen's kappa, the share of rows they agree on, and the rows where they differ.

    ``verdicts`` are by judge, in the same order of rows; rows that one of the two did not judge are left out. Rows are
    numbered from 0, as in the list of completions.
    """
    found = []
    for first, second in combinations(verdicts, 2):
        pairs = {
            row: (x, y)
            for row, (x, y) in enumerate(zip(verdicts[first], verdicts[second], strict=True))
            if x is not None and y is not None
        }
        differ = [row for row, (x, y) in pairs.items() if x != y]
        found.append(
            {
                "judges": [first, second],
                "judged_by_both": len(pairs),
                "kappa": cohen_kappa([x for x, _ in pairs.values()], [y for _, y in pairs.values()]),
                "agree": 1 - len(differ) / len(pairs) if pairs else None,
                "rows_that_differ": differ,
            }
        )
    return found
