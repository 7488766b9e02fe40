"""plan: what a run will take, without its weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from refusal_lightning.config import (
    CacheConfig,
    DataConfig,
    EvaluateConfig,
    ModelConfig,
    PlanConfig,
    SelectConfig,
    StoreConfig,
    TrainerConfig,
)
from refusal_lightning.data.tables import is_table
from refusal_lightning.files import writable_folder
from refusal_lightning.models import ChatModel
from refusal_lightning.models.tokens import length_batches
from refusal_lightning.planning.arithmetic import Arithmetic
from refusal_lightning.stages.cache import records_of
from refusal_lightning.stages.console import say
from refusal_lightning.stages.evaluate import evaluation_sets
from refusal_lightning.stages.files import write_json
from refusal_lightning.stages.loss_texts import OWN_COMPLETIONS, read_loss_sets, text_source
from refusal_lightning.stages.model import open_model
from refusal_lightning.stages.prompts import drawn_sets, prompt_set, rows_of
from refusal_lightning.stages.stores import known_ratios, store_encoding, store_layout
from refusal_lightning.store.estimate import Estimate, estimate
from refusal_lightning.store.geometry import plan_geometry

Batches = list[tuple[int, int]]
"""Rows, and tokens of each with its padding."""


@dataclass(frozen=True)
class StagePlan:
    """What a stage takes at most, over all devices."""

    prompts: int
    tokens: int
    """Tokens that pass through the model, padding included, and new ones."""
    flops: float
    reads: float
    """Bytes of weights that decoding reads, one device after the other."""
    kept: float
    """Bytes beside the weights that a copy of the model keeps, over its devices."""
    work: float
    """Bytes beside these on each device, at the widest point of a pass."""


@dataclass(frozen=True)
class Subject:
    """The model of a plan, and where it runs."""

    arithmetic: Arithmetic
    config: Any
    dtype: str
    weights: int
    """Bytes."""
    on_cpu: bool


def plan(
    model: ModelConfig,
    data: DataConfig,
    store: StoreConfig,
    trainer: TrainerConfig,
    cache: CacheConfig,
    select: SelectConfig,
    evaluate: EvaluateConfig,
    plan: PlanConfig,
) -> None:
    """Print, and write if asked, what each stage will take and which strategy fits. No weights are loaded."""
    from transformers import AutoConfig

    from refusal_lightning.planning.memory import LIBRARIES, SHARDS, weight_bytes
    from refusal_lightning.planning.model_size import model_size
    from refusal_lightning.planning.placement import place

    if plan.out is not None:
        writable_folder(Path(plan.out).parent, "plan.out")
    chat = open_model(model)
    config = chat.qwen1_config or AutoConfig.from_pretrained(
        chat.source, revision=chat.revision, trust_remote_code=model.trust_remote_code
    )
    size = model_size(config, model.trust_remote_code)
    arithmetic = Arithmetic.of(config, size)
    weights = weight_bytes(size, model.dtype)

    lengths = _cached_lengths(chat, data, cache, plan)
    layout, encoding = store_layout(chat, cache), store_encoding(store)
    geometry = plan_geometry(layout, encoding, len(lengths), sum(lengths), max(lengths))
    ratios = known_ratios(chat.alias, store, layout)
    disk = estimate(layout, encoding, len(lengths), sum(lengths), geometry=geometry, ratios=ratios)
    shard_bytes = disk.bytes / max(1, -(-len(lengths) // geometry.shard_prompts))

    device, devices, on_cpu = _device(trainer, plan)
    subject = Subject(arithmetic, config, model.dtype, weights, on_cpu)
    stages = {
        "cache": _cache(subject, lengths, geometry.shard_prompts, cache.batch_size),
        "select": _select(subject, chat, data, select),
        "evaluate": _evaluate(subject, chat, data, evaluate),
    }
    host = LIBRARIES + SHARDS * shard_bytes
    needs = [
        place(weights + stage.kept, stage.work + (host if on_cpu else 0), device, devices, trainer.num_nodes)
        for stage in stages.values()
    ]
    fits = min(needs, key=lambda need: (need.copies, -need.memory))
    copies = max(fits.copies, 1)

    say(
        f"{chat.alias}: {size.total:,} parameters ({size.per_token + size.head:,} at work on each new token), "
        f"{weights / 1e9:.2f} GB in {model.dtype}"
    )
    say(_placement_line(fits.strategy, fits.memory, device, devices, trainer.num_nodes))
    say()
    say(f"{'at most':10}{'prompts':>10}{'tokens':>14}{'FLOPs':>12}{'time':>10}{'memory per device':>20}")
    parts = devices if fits.strategy == "device_map" else 1
    rows: dict[str, dict[str, Any]] = {}
    for name, stage in stages.items():
        seconds = stage.flops / (plan.tflops * 1e12 * copies) + stage.reads / (plan.gb_per_s * 1e9 * copies)
        memory = (weights + stage.kept) / parts + stage.work + (LIBRARIES if on_cpu else 0)
        if name == "cache" and on_cpu:
            memory += SHARDS * shard_bytes
        rows[name] = {**asdict(stage), "seconds": seconds, "memory_per_device": memory}
        say(
            f"{name:10}{stage.prompts:>10,}{stage.tokens:>14,}{stage.flops:>12.2e}{_duration(seconds):>10}"
            f"{f'{memory / 1e9:.2f} GB':>20}"
        )
    say(
        f"times at {plan.tflops:g} TFLOP/s and {plan.gb_per_s:g} GB/s per device (plan.tflops, plan.gb_per_s), with "
        f"{copies} {'copy' if copies == 1 else 'copies'} of the model at work; `select` is usually done after a "
        "fraction of this, and answers end before evaluate.max_new_tokens"
    )
    say(_store_line(disk, encoding.compression, bool(ratios)))
    if plan.out is not None:
        write_json(
            Path(plan.out),
            {
                "parameters": asdict(size),
                "weights_bytes": weights,
                "strategy": fits.strategy,
                "copies": fits.copies,
                "memory_per_device": fits.memory,
                "device_memory": device,
                "stages": rows,
                "store": asdict(disk),
            },
        )


def _cached_lengths(chat: ChatModel, data: DataConfig, cache: CacheConfig, plan: PlanConfig) -> list[int]:
    """Tokens of each prompt of the store, shortest first."""
    if plan.n_prompts is not None:
        return [plan.prompt_tokens] * plan.n_prompts
    sets = drawn_sets(chat, data)
    for name in cache.datasets:
        sets[name] = prompt_set(name, [row["instruction"] for row in rows_of(name, data)], chat)
    return [record.n_tokens for record in records_of(sets.values(), data.labels)]


def _batches(lengths: list[int], batch_size: int) -> Batches:
    return [(len(index), max(lengths[i] for i in index)) for index in length_batches(lengths, batch_size)]


def _widest(subject: Subject, batches: Batches) -> float:
    from refusal_lightning.planning.memory import head_copies, pass_bytes

    return max(
        pass_bytes(subject.config, rows, tokens, subject.dtype)
        + (head_copies(subject.arithmetic.size, rows, subject.dtype) if subject.on_cpu else 0)
        for rows, tokens in batches
    )


def _tokens(batches: Batches) -> int:
    return sum(rows * tokens for rows, tokens in batches)


def _cache(subject: Subject, lengths: list[int], shard_prompts: int, batch_size: int) -> StagePlan:
    """Batches do not cross shards, as `cache` has it."""
    shards = [lengths[start : start + shard_prompts] for start in range(0, len(lengths), shard_prompts)]
    batches = [batch for shard in shards for batch in _batches(shard, batch_size)]
    flops = subject.arithmetic.prompts(batches)
    return StagePlan(len(lengths), _tokens(batches), flops, 0.0, 0.0, _widest(subject, batches))


def _select(subject: Subject, chat: ChatModel, data: DataConfig, select: SelectConfig) -> StagePlan:
    """All three scores of every candidate that is not pruned, each prompt whole, for each estimator.

    Induce scores begin at the candidate's layer.
    """
    sets = drawn_sets(chat, data)
    kept = chat.n_layers - (int(chat.n_layers * select.prune_layers) if select.prune_layers is not None else 0)
    candidates = chat.n_positions * kept * len(select.estimators)
    harmful, harmless = (
        _batches([len(ids) for ids in sets[name].token_ids], select.batch_size)
        for name in ("harmful_val", "harmless_val")
    )
    above = sum(1 - layer / chat.n_layers for layer in range(kept)) / kept
    passes = subject.arithmetic.prompts(harmful) + (1 + above) * subject.arithmetic.prompts(harmless)
    return StagePlan(
        prompts=len(sets["harmful_val"]) + len(sets["harmless_val"]),
        tokens=round(candidates * (_tokens(harmful) + (1 + above) * _tokens(harmless))),
        flops=candidates * passes,
        reads=0.0,
        kept=0.0,
        work=_widest(subject, [(select.batch_size, max(tokens for _, tokens in harmful + harmless))]),
    )


def _evaluate(subject: Subject, chat: ChatModel, data: DataConfig, evaluate: EvaluateConfig) -> StagePlan:
    """Answers as long as they may be, under every intervention, and the losses."""
    from refusal_lightning.modules.batch_size import MOST
    from refusal_lightning.modules.generation import APART
    from refusal_lightning.planning.memory import answer_bytes

    sets = evaluation_sets(chat, data, evaluate)
    lengths = [len(ids) for item in sets for ids in item.prompts.token_ids]
    own = [len(ids) for item in sets if item.kind == "harmless" for ids in item.prompts.token_ids]
    n_interventions, new = len(evaluate.interventions), evaluate.max_new_tokens
    rows = len(lengths) * n_interventions
    at_once = min(rows, evaluate.batch_size or MOST["cuda"])
    mean = sum(lengths) / len(lengths)
    prompts = _batches(lengths, at_once)
    flops = n_interventions * subject.arithmetic.prompts(prompts) + subject.arithmetic.decoding(rows, mean, new)
    tokens = n_interventions * _tokens(prompts) + rows * new
    losses: Batches = [(1, n + new) for n in own] if OWN_COMPLETIONS in evaluate.losses else []
    here = [name for name in evaluate.losses if is_table(text_source(name, data).source)]
    for texts in read_loss_sets(chat, data, replace(evaluate, losses=here)).values():
        losses += [(1, len(text.ids)) for text in texts]
    # What is elsewhere is taken to have as many texts, and as long ones, as the configuration lets in.
    elsewhere = [name for name in evaluate.losses if name != OWN_COMPLETIONS and name not in here]
    losses += [(evaluate.loss_batch_size * evaluate.loss_n_batches, evaluate.loss_max_tokens) for _ in elsewhere]
    for count, width in losses:
        flops += n_interventions * subject.arithmetic.prompts([(count, width)], logits=width)
        tokens += n_interventions * count * width
    return StagePlan(
        prompts=len(lengths),
        tokens=tokens,
        flops=flops,
        reads=subject.weights * new * -(-rows // at_once),
        kept=answer_bytes(subject.config, at_once, max(lengths) + new, subject.dtype),
        work=_widest(subject, [(APART, max(lengths))]),
    )


def _device(trainer: TrainerConfig, plan: PlanConfig) -> tuple[float, int, bool]:
    """Bytes of memory of a device, devices per node, and whether they are CPU processes of one host."""
    import torch

    from refusal_lightning.modules.batch_size import host_memory

    gpu = torch.cuda.is_available() and trainer.accelerator != "cpu"
    here = torch.cuda.device_count() if gpu else 1
    devices = trainer.devices if isinstance(trainer.devices, int) else here
    if plan.device_memory_gb is not None:
        return plan.device_memory_gb * 1e9, devices, trainer.accelerator == "cpu"
    if gpu:
        return float(torch.cuda.get_device_properties(0).total_memory), devices, False
    return host_memory() / devices, devices, True


def _placement_line(strategy: str | None, memory: float, device: float, devices: int, nodes: int) -> str:
    needs = f"{memory / 1e9:.1f} of {device / 1e9:.1f} GB on each device"
    over = f"{nodes} x {devices} device{'s' if devices * nodes > 1 else ''}"
    if strategy is None:
        return (
            f"does not fit: {over} would need {needs}; take more devices per node, a half type (model.dtype), or "
            "smaller batches (cache.batch_size, select.batch_size, evaluate.batch_size)"
        )
    if strategy == "ddp":
        return f"fits: a copy on each of {over} (trainer.strategy: ddp), {needs}"
    return (
        f"fits: a copy over the {devices} devices of each of {nodes} node{'s' if nodes > 1 else ''} "
        f"(trainer.strategy: device_map), {needs}; they work one after the other, so each node counts as one device"
    )


def _store_line(disk: Estimate, compression: str, measured: bool) -> str:
    if compression == "none":
        return f"store: {disk.bytes / 1e9:.3f} GB in {disk.files} files"
    basis = (
        "by the ratio of the prompts that are there already"
        if measured
        else "by the demo model's ratio; cache a few prompts of this model, and its own is taken"
    )
    return (
        f"store: about {disk.likely_bytes / 1e9:.3f} GB in {disk.files} files with {compression}, {basis}; "
        f"{disk.bytes / 1e9:.3f} GB at most"
    )


def _duration(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s" if seconds >= 0.1 else "< 0.1 s"
