"""What `cache` starts from: the prompts that it is asked for, and the store that is to have them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from refusal_lightning.config import CacheConfig, DataConfig, StoreConfig
from refusal_lightning.distributed.process_group import require_same_on_all_ranks, require_shared_folder
from refusal_lightning.errors import UserError
from refusal_lightning.inputs.activations import (
    position_tokens,
    records_of,
    say_other_versions,
    store_encoding,
    store_layout,
    store_url,
)
from refusal_lightning.inputs.drawing import drawn_sets
from refusal_lightning.inputs.instructions import instructions_of, is_at_hand
from refusal_lightning.inputs.prompt_warnings import also_drawn, far_longer, repeated
from refusal_lightning.inputs.prompts import IdsByHash, PromptSet, prompt_set
from refusal_lightning.io.hashing import digest
from refusal_lightning.io.versions import package_versions
from refusal_lightning.models import ChatModel
from refusal_lightning.store import ActivationStore, Layout, PromptRecord
from refusal_lightning.store.estimate import Estimate

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CacheInputs:
    """Prompts, the model without its weights, and a store, which may have some of the prompts already."""

    chat: ChatModel
    sets: Mapping[str, PromptSet]
    records: Sequence[PromptRecord]
    """Of every different prompt of the sets, shortest first (``inputs.activations.records_of``)."""
    store: ActivationStore

    @classmethod
    def open(cls, chat: ChatModel, data: DataConfig, store: StoreConfig, cache: CacheConfig) -> CacheInputs:
        """Draw and tokenise the prompts, and open their store, or make an empty one.

        Warns of prompts that are drawn twice, are in a test set, or are far longer than the others, and of a store that
        other versions made. Raises UserError.
        """
        sets = _prompt_sets(chat, data, cache)
        tokens = IdsByHash(sets.values())
        require_same_on_all_ranks({"model": digest(chat.identity), "prompts": digest(list(tokens))})
        url = store_url(chat, store, cache)
        require_shared_folder(store.root, "store.root", unless=lambda: _is_complete(url, store, list(tokens)))
        layout = store_layout(chat, cache)
        _require_long_enough(tokens, layout)
        lengths = [len(ids) for ids in tokens.values()]
        opened = ActivationStore.create_or_open(
            url,
            chat.identity,
            layout,
            store_encoding(store),
            store.options,
            position_tokens=position_tokens(chat, layout),
            planned=len(tokens),
            planned_tokens=sum(lengths),
            longest=max(lengths),
            context=chat.context,
        )
        records = records_of(sets.values(), data.labels)
        _say_old_names(opened, records)
        say_other_versions(opened)
        return cls(chat, sets, records, opened)

    @cached_property
    def tokens(self) -> Mapping[str, Sequence[int]]:
        """Token ids by the prompt's hash."""
        return IdsByHash(self.sets.values())

    @cached_property
    def lacking(self) -> list[str]:
        """Hashes of the prompts that the store lacked when this was first asked."""
        return self.store.lacking(list(self.tokens))

    @cached_property
    def needed(self) -> Estimate:
        """What these will take of the disk."""
        return self.store.estimate_for(self.records)

    @property
    def made_with(self) -> dict[str, Any]:
        """For the store's record of how it came about."""
        return {
            "model": self.chat.name,
            "packages": package_versions(),
            "datasets": {s.name: {"prompts": len(s), "digest": digest(s.hashes)} for s in self.sets.values()},
        }


def _prompt_sets(chat: ChatModel, data: DataConfig, cache: CacheConfig) -> dict[str, PromptSet]:
    """The drawn sets by role, and the further ones by name."""
    sets = drawn_sets(chat, data)
    for line in [*repeated(sets), *_test_prompts_drawn(data, cache, sets)]:
        log.warning(line)
    for name in cache.datasets:
        sets[name] = prompt_set(name, instructions_of(name, data), chat)
    for line in far_longer(sets.values()):
        log.warning(line)
    return sets


def _is_complete(url: str, store: StoreConfig, hashes: Sequence[str]) -> bool:
    """Whether there is a store with all these prompts."""
    return ActivationStore.exists(url, store.options) and ActivationStore.open(url, store.options).complete(hashes)


def _test_prompts_drawn(data: DataConfig, cache: CacheConfig, drawn: Mapping[str, PromptSet]) -> Iterator[str]:
    """A line for each test or further set that shares prompts with those drawn."""
    instructions = {prompts.name: prompts.instructions for prompts in drawn.values()}
    for name in dict.fromkeys([*(f"{label}_test" for label in data.labels), *cache.datasets]):
        if name not in cache.datasets and not is_at_hand(name, data):
            continue
        line = also_drawn(name, instructions_of(name, data), instructions)
        if line:
            yield line


def _require_long_enough(tokens: Mapping[str, Sequence[int]], layout: Layout) -> None:
    """Raise UserError where a prompt has fewer tokens than positions are kept of each."""
    if isinstance(layout.positions, str):
        return
    shortest = min(len(ids) for ids in tokens.values())
    if shortest < len(layout.positions):
        raise UserError(
            f"cache.positions is {len(layout.positions)} and the shortest prompt has {shortest} tokens; choose at most "
            "that many, or `all`"
        )


def _say_old_names(store: ActivationStore, records: Sequence[PromptRecord]) -> None:
    """Say so where the store knows prompts by another label or set than the configuration gives them now."""
    now = {record.hash: (record.label, record.split, record.dataset) for record in records}
    known = store.prompts
    columns = zip(known.hash, known.label, known.split, known.dataset, strict=True)
    other = sum(1 for h, *names in columns if h in now and now[h] != tuple(names))
    if other:
        log.info(
            f"cache: {other} prompts are in the store under the label or set that they were first cached with, and "
            "have another in this configuration; the stages go by the configuration, `store export` and the Python API "
            "by the store"
        )
