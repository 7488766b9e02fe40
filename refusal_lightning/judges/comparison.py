"""Two interventions on the same prompts: by how much the rate differs, and whether chance would explain it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

from refusal_lightning.judges.intervals import Interval, newcombe_paired


@dataclass(frozen=True)
class Comparison:
    """Compliance of the same prompts twice; counts are of prompts judged both times."""

    both: int
    only_first: int
    only_second: int
    neither: int
    left_out: int
    """Prompts that one or both times could not be judged."""
    difference: float | None
    """Rate of the second minus rate of the first; None for no prompts."""
    difference_interval: Interval
    """Newcombe's 95 % interval of the difference."""
    p_value: float
    """McNemar's exact test, two-sided, of no difference; not corrected for the number of comparisons."""


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """Two-sided exact p-value: the rows that differ fall either way like a fair coin."""
    n, fewer = only_first + only_second, min(only_first, only_second)
    tail = sum(math.comb(n, i) for i in range(fewer + 1))
    return min(1.0, 2 * tail / 2**n)


def compare(first: Sequence[bool | None], second: Sequence[bool | None]) -> Comparison:
    """Compare verdicts on the same prompts, in the same order."""
    pairs = [(x, y) for x, y in zip(first, second, strict=True) if x is not None and y is not None]
    count = Counter((bool(x), bool(y)) for x, y in pairs)
    both, b, c, neither = (count[k] for k in ((True, True), (True, False), (False, True), (False, False)))
    return Comparison(
        both,
        b,
        c,
        neither,
        left_out=len(first) - len(pairs),
        difference=(c - b) / len(pairs) if pairs else None,
        difference_interval=newcombe_paired(both, b, c, neither),
        p_value=mcnemar_exact(b, c),
    )


def compare_evaluations(evaluations: Mapping[str, Mapping[str, Any]], judges: Sequence[str]) -> list[dict[str, Any]]:
    """Every two interventions by every judge, from what the evaluation files of one set of prompts hold.

    ``evaluations`` are by intervention, ``judges`` the names that the files use. Raises ValueError where the prompts
    differ.
    """
    rows = {name: evaluation["completions"] for name, evaluation in evaluations.items()}
    found = []
    for judge in judges:
        for first, second in combinations(rows, 2):
            if [row["prompt"] for row in rows[first]] != [row["prompt"] for row in rows[second]]:
                raise ValueError(f"{first} and {second} were not run on the same prompts")
            one, other = ([row[f"is_jailbreak_{judge}"] for row in rows[name]] for name in (first, second))
            found.append({"judge": judge, "first": first, "second": second, **asdict(compare(one, other))})
    return found
