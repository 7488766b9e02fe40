"""cache: the one stage that reads activations off the model."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

from refusal_lightning.config import CacheConfig, DataConfig, ModelConfig, RunsConfig, StoreConfig, TrainerConfig
from refusal_lightning.distributed.launch import distributed_stage
from refusal_lightning.distributed.predict import PredictLoop, run_loop
from refusal_lightning.inputs.model import open_model
from refusal_lightning.loggers.measured import Measured
from refusal_lightning.loggers.registry import require_loggers
from refusal_lightning.loggers.stage_log import stage_log
from refusal_lightning.models.tokens import left_pad, length_batches
from refusal_lightning.runs.folder import RunFolder
from refusal_lightning.stages.cache.inputs import CacheInputs
from refusal_lightning.store import Shard

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CacheResult:
    """A store that has all prompts asked for."""

    url: str
    prompts: int
    """Different ones, asked for."""
    computed: int
    """Those that the store lacked."""
    seconds: float
    """Of the passes and the writing, loading the model included; 0 where nothing was to be computed."""
    bytes: int
    """That the store's arrays take, of all prompts in them."""


@distributed_stage
def cache(
    model: ModelConfig,
    data: DataConfig,
    store: StoreConfig,
    trainer: TrainerConfig,
    runs: RunsConfig,
    cache: CacheConfig,
) -> CacheResult:
    """Put the drawn training and validation prompts, and any further datasets, into the store.

    Continues where a killed run stopped; loads no weights when there is nothing to do. Nothing but a log, where
    ``trainer.logger`` asks for one, goes to the run's folder.
    """
    require_loggers(trainer.logger)
    inputs = CacheInputs.open(open_model(model, trainer), data, store, cache)
    run = RunFolder(runs.root, inputs.chat.alias)
    config = {"model": model, "data": data, "store": store, "trainer": trainer, "cache": cache}
    announce(inputs)
    with stage_log(trainer.logger, run.log_place("cache"), config) as logged:
        result = cache_activations(inputs, trainer, cache.batch_size)
        tell(result)
        logged.write(_measured(result))
    return result


def cache_activations(
    inputs: CacheInputs, trainer: TrainerConfig | None = None, batch_size: int = CacheConfig.batch_size
) -> CacheResult:
    """Run the prompts that the store lacks through the model, and write their activations into it, shard by shard.

    A kill costs the shards at hand, and the same call continues. Raises UserError where the disk has no room.
    """
    store, seconds = inputs.store, 0.0
    if inputs.lacking:
        store.check_space(inputs.needed)
        started = time.perf_counter()
        _fill(inputs, trainer or TrainerConfig(), batch_size)
        seconds = time.perf_counter() - started
    return CacheResult(store.url, len(inputs.tokens), len(inputs.lacking), seconds, store.stored_bytes())


def _fill(inputs: CacheInputs, trainer: TrainerConfig, batch_size: int) -> None:
    """Add the prompts to the store and run what is pending of them."""
    from refusal_lightning.modules.activations import ActivationModule, PromptBatch
    from refusal_lightning.stages.cache.store_writer import StoreWriter

    store, tokens, hashes = inputs.store, inputs.tokens, list(inputs.tokens)

    def batches(shard: Shard) -> list[tuple[Shard, list[int]]]:
        # Batches follow from the shard alone, so its bytes do not depend on who computes it, or when.
        return [(shard, rows) for rows in length_batches(shard.n_tokens, batch_size)]

    def batch(shard_rows: tuple[Shard, list[int]]) -> PromptBatch:
        shard, rows = shard_rows
        return PromptBatch(shard.index, rows, *left_pad([tokens[shard.hashes[row]] for row in rows]))

    def add_prompts() -> None:
        # A run that did not finish, and whose data may be gone, leaves shards of its prompts and some of ours.
        store.add_prompts(inputs.records, inputs.made_with, apart=True)

    last = store.layout.positions
    module = ActivationModule(
        inputs.chat, store.layout.hook_points, store.layout.layers, last if isinstance(last, str) else len(last)
    )
    loop = PredictLoop(
        module,
        lambda: store.pending(hashes),
        batches,
        batch,
        add_prompts,
        name="activations",
        counts=lambda made: {"prompts": len(made.rows)},
    )
    run_loop(trainer, loop, [StoreWriter(store)])


def _measured(result: CacheResult) -> Measured:
    """For loggers."""
    return Measured(
        {"prompts/asked": result.prompts, "prompts/computed": result.computed, "store/MB": result.bytes / 1e6}
    )


def announce(inputs: CacheInputs) -> None:
    """Say what is to be computed, and what it will take of the disk."""
    if not inputs.lacking:
        return
    needed = inputs.needed
    log.info(
        f"cache: {len(inputs.lacking)} of {len(inputs.tokens)} prompts to run, about {needed.likely_bytes / 1e6:,.0f} "
        f"MB (at most {needed.bytes / 1e6:,.0f} MB) in {needed.files} files, to {inputs.store.url}"
    )
    most, context = inputs.store.longest_prompt, inputs.chat.context
    if most is not None and (context is None or most < context):
        log.info(f"cache: prompts of up to {most} tokens fit this store; longer ones take one of larger store.shard_mb")


def tell(result: CacheResult) -> None:
    """Say what was computed, and how fast."""
    if not result.computed:
        log.info(f"cache: nothing to do, all {result.prompts} prompts are in {result.url}")
        return
    log.info(
        f"cache: done, {result.computed} prompts in {result.seconds:.0f} s "
        f"({result.computed / result.seconds:.1f} prompts/s); the store has {result.bytes / 1e6:,.1f} MB"
    )
