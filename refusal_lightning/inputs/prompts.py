"""Sets of prompts: instructions rendered, tokenised and named by hash."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

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
