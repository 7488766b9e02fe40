"""cache: the one stage that reads activations off the model."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from refusal_lightning.config import CacheConfig, DataConfig, ModelConfig, StoreConfig, TrainerConfig
from refusal_lightning.distributed.launch import distributed_stage
from refusal_lightning.distributed.predict import PredictLoop, run_loop
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
from refusal_lightning.inputs.model import open_model
from refusal_lightning.inputs.prompts import (
    IdsByHash,
    PromptSet,
    also_drawn,
    drawn_sets,
    far_longer,
    is_at_hand,
    prompt_set,
    repeated,
    rows_of,
)
from refusal_lightning.io.hashing import digest
from refusal_lightning.io.versions import package_versions
from refusal_lightning.models import ChatModel
from refusal_lightning.models.tokens import left_pad, length_batches
from refusal_lightning.store import ActivationStore, Layout, PromptRecord, Shard

log = logging.getLogger(__name__)


@distributed_stage
def cache(model: ModelConfig, data: DataConfig, store: StoreConfig, trainer: TrainerConfig, cache: CacheConfig) -> None:
    """Put the drawn training and validation prompts, and any further datasets, into the store.

    Continues where a killed run stopped; loads no weights when there is nothing to do.
    """
    chat = open_model(model, trainer)
    sets = drawn_sets(chat, data)
    for line in [*repeated(sets), *_test_prompts_drawn(data, cache, sets)]:
        log.warning(line)
    for name in cache.datasets:
        sets[name] = prompt_set(name, [row["instruction"] for row in rows_of(name, data)], chat)
    for line in far_longer(sets.values()):
        log.warning(line)
    tokens = IdsByHash(sets.values())
    require_same_on_all_ranks({"model": digest(chat.identity), "prompts": digest(list(tokens))})
    url = store_url(chat, store, cache)
    require_shared_folder(store.root, "store.root", unless=lambda: _is_complete(url, store, list(tokens)))
    layout = store_layout(chat, cache)
    _refuse_short_prompts(layout, tokens)
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
    _tell_of_old_names(opened, records)
    say_other_versions(opened)
    lacking = opened.lacking(list(tokens))
    if not lacking:
        log.info(f"cache: nothing to do, all {len(tokens)} prompts are in {url}")
        return
    needed = opened.estimate_for(records)
    log.info(
        f"cache: {len(lacking)} of {len(tokens)} prompts to run, about {needed.likely_bytes / 1e6:,.0f} MB (at most "
        f"{needed.bytes / 1e6:,.0f} MB) in {needed.files} files, to {url}"
    )
    most = opened.longest_prompt
    if most is not None and (chat.context is None or most < chat.context):
        log.info(f"cache: prompts of up to {most} tokens fit this store; longer ones take one of larger store.shard_mb")
    opened.check_space(needed)
    made_with = {
        "model": model.name,
        "packages": package_versions(),
        "datasets": {s.name: {"prompts": len(s), "digest": digest(s.hashes)} for s in sets.values()},
    }
    started = time.perf_counter()
    fill(opened, chat, trainer, cache.batch_size, records, tokens, made_with)
    seconds = time.perf_counter() - started
    log.info(f"cache: done, {len(lacking)} prompts in {seconds:.0f} s ({len(lacking) / seconds:.1f} prompts/s)")


def _is_complete(url: str, store: StoreConfig, hashes: Sequence[str]) -> bool:
    """Whether there is a store with all these prompts."""
    return ActivationStore.exists(url, store.options) and ActivationStore.open(url, store.options).complete(hashes)


def _test_prompts_drawn(data: DataConfig, cache: CacheConfig, drawn: Mapping[str, PromptSet]) -> Iterator[str]:
    """A line for each test or further set that shares prompts with those drawn."""
    instructions = {prompts.name: prompts.instructions for prompts in drawn.values()}
    for name in dict.fromkeys([*(f"{label}_test" for label in data.labels), *cache.datasets]):
        if name not in cache.datasets and not is_at_hand(name, data):
            continue
        line = also_drawn(name, [row["instruction"] for row in rows_of(name, data)], instructions)
        if line:
            yield line


def _tell_of_old_names(store: ActivationStore, records: Sequence[PromptRecord]) -> None:
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


def _refuse_short_prompts(layout: Layout, tokens: Mapping[str, Sequence[int]]) -> None:
    if isinstance(layout.positions, str):
        return
    shortest = min(len(ids) for ids in tokens.values())
    if shortest < len(layout.positions):
        raise UserError(
            f"cache.positions is {len(layout.positions)} and the shortest prompt has {shortest} tokens; choose at most "
            "that many, or `all`"
        )


def fill(
    store: ActivationStore,
    chat: ChatModel,
    trainer: TrainerConfig,
    batch_size: int,
    records: list[PromptRecord],
    tokens: Mapping[str, Sequence[int]],
    made_with: dict[str, Any] | None = None,
) -> None:
    """Plan the prompts that the store lacks and run what is pending of them; ``tokens`` gives ids by prompt hash."""
    from refusal_lightning.modules.activations import ActivationModule, PromptBatch
    from refusal_lightning.stages.cache.store_writer import StoreWriter

    hashes = list(tokens)

    def batches(shard: Shard) -> list[tuple[Shard, list[int]]]:
        # Batches follow from the shard alone, so its bytes do not depend on who computes it, or when.
        return [(shard, rows) for rows in length_batches(shard.n_tokens, batch_size)]

    def batch(shard_rows: tuple[Shard, list[int]]) -> PromptBatch:
        shard, rows = shard_rows
        return PromptBatch(shard.index, rows, *left_pad([tokens[shard.hashes[row]] for row in rows]))

    def add_prompts() -> None:
        # A run that did not finish, and whose data may be gone, leaves shards of its prompts and some of ours.
        store.add_prompts(records, made_with, apart=True)

    last = store.layout.positions
    module = ActivationModule(
        chat, store.layout.hook_points, store.layout.layers, last if isinstance(last, str) else len(last)
    )
    loop = PredictLoop(module, lambda: store.pending(hashes), batches, batch, add_prompts)
    run_loop(trainer, loop, [StoreWriter(store)])
