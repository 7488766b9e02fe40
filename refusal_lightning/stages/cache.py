"""cache: the one stage that reads activations off the model."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict

from refusal_lightning.config import CacheConfig, DataConfig, ModelConfig, StoreConfig, TrainerConfig
from refusal_lightning.data import load_dataset
from refusal_lightning.errors import UserError
from refusal_lightning.models import ChatModel, load_chat_model
from refusal_lightning.models.tokens import left_pad, length_batches
from refusal_lightning.stages.console import say
from refusal_lightning.stages.prompts import PromptSet, drawn_sets, prompt_set
from refusal_lightning.stages.stores import store_encoding, store_layout, store_url
from refusal_lightning.store import ActivationStore, PromptRecord, Shard


def cache(model: ModelConfig, data: DataConfig, store: StoreConfig, trainer: TrainerConfig, cache: CacheConfig) -> None:
    """Put the drawn training and validation prompts, and any further datasets, into the model's store.

    Continues where a killed run stopped; loads no weights when there is nothing to do.
    """
    chat = load_chat_model(**asdict(model))
    sets = drawn_sets(chat, data)
    for name in cache.datasets:
        instructions = load_dataset(name, instructions_only=True, root=data.root)
        sets[name] = prompt_set(name, instructions, chat)
    tokens = {h: ids for s in sets.values() for h, ids in zip(s.hashes, s.token_ids, strict=True)}
    url = store_url(chat, store)
    layout = store_layout(chat, cache.hook_points)
    opened = ActivationStore.create_or_open(
        url,
        chat.identity,
        layout,
        store_encoding(store),
        position_tokens=[chat.tokenizer.decode([i]) for i in chat.eoi_ids],
        planned=len(tokens),
    )
    lacking = len(opened.lacking(list(tokens)))
    if not lacking:
        say(f"cache: nothing to do, all {len(tokens)} prompts are in {url}")
        return
    _refuse_foreign_shards(opened, tokens)
    bound = opened.estimate(lacking)
    opened.check_space(bound)
    say(f"cache: {lacking} of {len(tokens)} prompts to run, at most {bound.bytes / 1e6:,.0f} MB, to {url}")
    started = time.perf_counter()
    _run(chat, trainer, cache, opened, _records(sets), tokens)
    seconds = time.perf_counter() - started
    say(f"cache: done, {lacking} prompts in {seconds:.0f} s ({lacking / seconds:.1f} prompts/s)")


def _refuse_foreign_shards(store: ActivationStore, tokens: dict[str, list[int]]) -> None:
    """A shard is written whole, so one planned with other prompts beside ours cannot be computed from ours alone."""
    foreign = {prompt for shard in store.pending(list(tokens)) for prompt in shard.hashes} - set(tokens)
    if foreign:
        raise UserError(
            f"a run that did not finish planned {len(foreign)} further prompts in {store.url}, beside some of these; "
            "run `cache` with that configuration to the end first, or choose another store.root"
        )


def _records(sets: dict[str, PromptSet]) -> list[PromptRecord]:
    """One record per different prompt, shortest first, so that a shard's prompts are of similar length."""
    records: dict[str, PromptRecord] = {}
    for name, prompts in sets.items():
        label, _, split = name.partition("_")
        known = label in ("harmful", "harmless") and split in ("train", "val", "test")
        for prompt, ids in zip(prompts.hashes, prompts.token_ids, strict=True):
            if prompt not in records:
                records[prompt] = PromptRecord(
                    hash=prompt,
                    n_tokens=len(ids),
                    label=label if known else "",
                    split=split if known else "",
                    dataset=name,
                )
    return sorted(records.values(), key=lambda r: (r.n_tokens, r.hash))


def _run(
    chat: ChatModel,
    trainer: TrainerConfig,
    config: CacheConfig,
    store: ActivationStore,
    records: list[PromptRecord],
    tokens: dict[str, list[int]],
) -> None:
    from refusal_lightning.data.work import WorkDataModule
    from refusal_lightning.modules.activations import ActivationModule, PromptBatch
    from refusal_lightning.stages.trainer import run_predict
    from refusal_lightning.writers import StoreWriter

    hashes = list(tokens)

    def batches(shard: Shard) -> Iterator[PromptBatch]:
        # Batches follow from the shard alone, so its bytes do not depend on who computes it, or when.
        prompts = [tokens[prompt] for prompt in shard.hashes]
        for rows in length_batches([len(p) for p in prompts], config.batch_size):
            yield PromptBatch(shard.index, rows, *left_pad([prompts[row] for row in rows]))

    writer = StoreWriter(store.write_shard, lambda index: store.shard(index).n_rows)
    work = WorkDataModule(pending=lambda: store.pending(hashes), expand=batches, prepare=lambda: _plan(store, records))
    run_predict(trainer, ActivationModule(chat, config.hook_points), work, [writer])


def _plan(store: ActivationStore, records: list[PromptRecord]) -> None:
    store.add_prompts(records)
