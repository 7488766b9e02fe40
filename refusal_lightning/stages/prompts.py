"""The prompts of a run: instructions drawn, rendered, tokenised and named by hash."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from refusal_lightning.config import DataConfig
from refusal_lightning.data import draw_instructions, load_dataset_split
from refusal_lightning.errors import UserError
from refusal_lightning.models import ChatModel
from refusal_lightning.models.tokens import prompt_hash


@dataclass(frozen=True)
class PromptSet:
    """A named list of prompts, e.g. ``harmful_train``, in the order drawn."""

    name: str
    instructions: list[str] = field(repr=False)
    token_ids: list[list[int]] = field(repr=False)
    hashes: list[str] = field(repr=False)

    def __len__(self) -> int:
        return len(self.hashes)


def prompt_set(
    name: str, instructions: Sequence[str], model: ChatModel, whole: Callable[[], Sequence[str]] | None = None
) -> PromptSet:
    """Render and tokenise instructions.

    ``whole`` gives the set that they are drawn from, in its file's order. Raises UserError that names the row of an
    instruction that cannot be a prompt, and not its text.
    """
    token_ids = []
    for instruction in instructions:
        try:
            token_ids.append(model.encode(instruction))
        except UserError as error:
            row = list(instructions if whole is None else whole()).index(instruction)
            raise UserError(f"{name}, row {row}: {error}; take it out of the set") from error
    return PromptSet(name, list(instructions), token_ids, [prompt_hash(ids) for ids in token_ids])


def categories_of(root: str, instructions: Sequence[str]) -> list[str]:
    """Categories of harmful training instructions; those without one share the empty category."""
    rows = load_dataset_split("harmful", "train", root=root)
    category = {row["instruction"]: str(row.get("category") or "") for row in rows}
    return [category[instruction] for instruction in instructions]


def drawn_sets(model: ChatModel, data: DataConfig) -> dict[str, PromptSet]:
    """harmful_train, harmless_train, harmful_val and harmless_val, as the paper draws them."""
    draw = draw_instructions(data.root, data.n_train, data.n_val, data.seed)

    def whole(name: str) -> list[str]:
        label, _, split = name.rpartition("_")
        return load_dataset_split(label, split, instructions_only=True, root=data.root)

    return {
        name: prompt_set(name, instructions, model, partial(whole, name)) for name, instructions in draw.sets().items()
    }
