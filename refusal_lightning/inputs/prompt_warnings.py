"""What is to be said of the prompts of a run: repeated ones, far longer ones, tests that are no tests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

from refusal_lightning.inputs.prompts import PromptSet


def far_longer(sets: Iterable[PromptSet]) -> list[str]:
    """A line for each set in which a prompt is far longer than the others: its passes are most of the work."""
    lines = []
    for s in sets:
        lengths = sorted(len(ids) for ids in s.token_ids)
        middle = lengths[len(lengths) // 2] if lengths else 0
        if lengths and lengths[-1] > max(20 * middle, 512):
            lines.append(
                f"the longest prompt of {s.name} has {lengths[-1]} tokens, and half of them have at most {middle}: it "
                "takes most of the time; see whether it is meant"
            )
    return lines


def also_drawn(name: str, instructions: Sequence[str], drawn: Mapping[str, Sequence[str]]) -> str | None:
    """A line that says how many instructions of a set are among those drawn, by the name of their set; None if none."""
    own = {instruction.strip() for instruction in instructions}
    common = {other: len(own & {text.strip() for text in texts}) for other, texts in drawn.items() if other != name}
    counts = ", ".join(f"{count} in {other}" for other, count in common.items() if count)
    return f"of the {len(own)} prompts of {name} the direction is made and chosen with {counts}" if counts else None


def repeated(sets: Mapping[str, PromptSet]) -> list[str]:
    """A line for each drawn set that holds a prompt twice and each two that share one, without its text."""
    lines = []
    for s in sets.values():
        more = len(s) - len(set(s.hashes))
        if more:
            lines.append(f"{more} of the {len(s)} prompts drawn of {s.name} repeat another of them and count again")
    for a, b in combinations(sets.values(), 2):
        common = len(set(a.hashes) & set(b.hashes))
        if common:
            lines.append(f"{common} of the prompts drawn are in both {a.name} and {b.name}; each should be in one set")
    return lines
