"""The prompts of a run: instructions drawn, rendered, tokenised and named by hash."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from refusal_lightning.config import CacheConfig, DataConfig, SetConfig
from refusal_lightning.data import Draw, draw_instructions, load_dataset, load_dataset_split
from refusal_lightning.data.datasets import SPLITS, NoSuchSet
from refusal_lightning.data.tables import is_table
from refusal_lightning.errors import UserError
from refusal_lightning.models import ChatModel
from refusal_lightning.models.tokens import TokenIds, prompt_hash


@dataclass(frozen=True)
class PromptSet:
    """A named list of prompts, e.g. ``harmful_train``, in the order drawn."""

    name: str
    instructions: list[str] = field(repr=False)
    token_ids: Sequence[list[int]] = field(repr=False)
    hashes: list[str] = field(repr=False)

    def __len__(self) -> int:
        return len(self.hashes)

    def take(self, places: Sequence[int]) -> PromptSet:
        """The prompts at these places, in their order."""
        return PromptSet(
            self.name,
            [self.instructions[i] for i in places],
            TokenIds(self.token_ids[i] for i in places),
            [self.hashes[i] for i in places],
        )


class IdsByHash(Mapping[str, list[int]]):
    """Token ids of the different prompts of some sets, which keep them, by hash."""

    def __init__(self, sets: Iterable[PromptSet]) -> None:
        self._places: dict[str, tuple[Sequence[list[int]], int]] = {}
        for prompts in sets:
            for place, prompt in enumerate(prompts.hashes):
                self._places.setdefault(prompt, (prompts.token_ids, place))

    def __getitem__(self, prompt: str) -> list[int]:
        ids, place = self._places[prompt]
        return ids[place]

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


@dataclass(frozen=True)
class Filtered:
    """A prompt set after the filter on baseline refusal scores, which are beside it."""

    prompts: PromptSet
    scores: np.ndarray
    drawn: int


def prompt_set(
    name: str, instructions: Sequence[str], model: ChatModel, whole: Sequence[str] | None = None
) -> PromptSet:
    """Render and tokenise instructions.

    ``whole`` is the set that they are drawn from, in its own order. Raises UserError that names the row of an
    instruction that cannot be a prompt, and not its text.
    """
    token_ids, hashes = TokenIds(), []
    for instruction in instructions:
        try:
            ids = model.encode(instruction)
        except UserError as error:
            row = list(instructions if whole is None else whole).index(instruction)
            raise UserError(f"{name}, row {row}: {error}; take it out of the set") from error
        token_ids.append(ids)
        hashes.append(prompt_hash(ids))
    return PromptSet(name, list(instructions), token_ids, hashes)


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


def is_at_hand(name: str, data: DataConfig) -> bool:
    """Whether a set that need not be there can be read, and without asking the Hub."""
    given = data.sets.get(name)
    source = given.source if isinstance(given, SetConfig) else given
    if source is not None:
        return not source.startswith("hub:") and Path(source).is_file()
    return (Path(data.root) / "splits" / f"{name}.json").is_file()


def plain_name(name: str) -> str:
    """A set's name as part of a file's name: files without folder and ending, nothing but letters, digits, ``_.-``."""
    stem = Path(name).stem if is_table(name) else name.removeprefix("hub:")
    return re.sub(r"[^\w.-]+", "-", stem, flags=re.ASCII).strip(".-") or "set"


def draw(data: DataConfig, load: Callable[[str], list[str]] | None = None) -> Draw:
    """The drawn instructions, and the generator after them; ``load`` gives a set's instructions by its name."""

    def of_set(name: str) -> list[str]:
        return [row["instruction"] for row in rows_of(name, data)]

    return draw_instructions(data.root, data.n_train, data.n_val, data.seed, labels=data.labels, load=load or of_set)


def categories_of(data: DataConfig, instructions: Sequence[str]) -> list[str]:
    """Categories of training instructions of the first kind; those without one share the empty category."""
    rows = rows_of(f"{data.labels[0]}_train", data)
    category = {row["instruction"]: str(row.get("category") or "") for row in rows}
    return [category[instruction] for instruction in instructions]


def drawn_sets(model: ChatModel, data: DataConfig) -> dict[str, PromptSet]:
    """The sets that the paper draws, by their role: harmful_train, harmless_train, harmful_val and harmless_val.

    Each set's own name has the label that stands in the place of harmful or harmless.
    """
    first, second = data.labels
    whole: dict[str, list[str]] = {}

    def load(name: str) -> list[str]:
        whole[name] = [row["instruction"] for row in rows_of(name, data)]
        return whole[name]

    sets = {}
    for role, instructions in draw(data, load).sets().items():
        kind, split = role.split("_")
        name = f"{first if kind == 'harmful' else second}_{split}"
        sets[role] = prompt_set(name, instructions, model, whole[name])
    return sets


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


def drawn_by_name(data: DataConfig, drawn: Draw) -> dict[str, list[str]]:
    """The drawn instructions by the names of their sets, e.g. ``harmful_train``, with the configured labels."""
    labels = dict(zip(("harmful", "harmless"), data.labels, strict=True))
    roles = ((role.split("_"), instructions) for role, instructions in drawn.sets().items())
    return {f"{labels[kind]}_{split}": instructions for (kind, split), instructions in roles}


def datasets_of(
    model: ChatModel, data: DataConfig, cache: CacheConfig, drawn: Mapping[str, PromptSet]
) -> dict[tuple[str, str, str], list[str]]:
    """Hashes by (dataset, split, label) of all that a configuration caches; split and label empty where it has none."""
    sets = [*drawn.values()]
    for name in cache.datasets:
        sets.append(prompt_set(name, [row["instruction"] for row in rows_of(name, data)], model))
    found: dict[tuple[str, str, str], list[str]] = {}
    for prompts in sets:
        label, split = label_and_split(prompts.name, data.labels)
        place = (prompts.name, split, label)
        found[place] = list(dict.fromkeys([*found.get(place, []), *prompts.hashes]))
    return dict(sorted(found.items()))


def label_and_split(name: str, labels: Sequence[str]) -> tuple[str, str]:
    """Label and split in a set's name, such as harmful_train; empty where it has none."""
    label, _, split = name.rpartition("_")
    return (label, split) if label in labels and split in SPLITS else ("", "")


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
