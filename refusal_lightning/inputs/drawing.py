"""The prompts of a run: instructions drawn as the authors draw them, rendered and tokenised."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from refusal_lightning.config import CacheConfig, DataConfig
from refusal_lightning.data import Draw, draw_instructions
from refusal_lightning.inputs.instructions import instructions_of, label_and_split, rows_of
from refusal_lightning.inputs.prompts import PromptSet, prompt_set
from refusal_lightning.models import ChatModel


def draw(data: DataConfig, load: Callable[[str], list[str]] | None = None) -> Draw:
    """The drawn instructions, and the generator after them; ``load`` gives a set's instructions by its name."""

    load = load or (lambda name: instructions_of(name, data))
    return draw_instructions(data.root, data.n_train, data.n_val, data.seed, labels=data.labels, load=load)


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
        whole[name] = instructions_of(name, data)
        return whole[name]

    sets = {}
    for role, instructions in draw(data, load).sets().items():
        kind, split = role.split("_")
        name = f"{first if kind == 'harmful' else second}_{split}"
        sets[role] = prompt_set(name, instructions, model, whole[name])
    return sets


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
        sets.append(prompt_set(name, instructions_of(name, data), model))
    found: dict[tuple[str, str, str], list[str]] = {}
    for prompts in sets:
        label, split = label_and_split(prompts.name, data.labels)
        place = (prompts.name, split, label)
        found[place] = list(dict.fromkeys([*found.get(place, []), *prompts.hashes]))
    return dict(sorted(found.items()))
