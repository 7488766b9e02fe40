"""The prompts of a run: instructions drawn, rendered, tokenised and named by hash."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from refusal_lightning.config import DataConfig
from refusal_lightning.data import draw_instructions, load_dataset_split
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


def prompt_set(name: str, instructions: Sequence[str], model: ChatModel) -> PromptSet:
    """Render and tokenise instructions."""
    token_ids = [model.encode(instruction) for instruction in instructions]
    return PromptSet(name, list(instructions), token_ids, [prompt_hash(ids) for ids in token_ids])


def categories_of(root: str, instructions: Sequence[str]) -> list[str]:
    """Categories of harmful training instructions; those without one share the empty category."""
    rows = load_dataset_split("harmful", "train", root=root)
    category = {row["instruction"]: str(row.get("category") or "") for row in rows}
    return [category[instruction] for instruction in instructions]


def drawn_sets(model: ChatModel, data: DataConfig) -> dict[str, PromptSet]:
    """harmful_train, harmless_train, harmful_val and harmless_val, as the paper draws them."""
    draw = draw_instructions(data.root, data.n_train, data.n_val, data.seed)
    return {name: prompt_set(name, instructions, model) for name, instructions in draw.sets().items()}
