"""plan: what a run will take, without its weights."""

from __future__ import annotations

import logging
from dataclasses import asdict
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
from refusal_lightning.inputs.activations import known_ratios, store_encoding, store_layout
from refusal_lightning.inputs.model import open_model
from refusal_lightning.interventions.registry import INTERVENTIONS
from refusal_lightning.io.files import writable_folder
from refusal_lightning.io.serialization import write_json
from refusal_lightning.planning.arithmetic import Arithmetic
from refusal_lightning.planning.estimates import PlacedModel, cache_plan, cached_lengths, evaluate_plan, select_plan
from refusal_lightning.planning.throughput import ASSUMED, Throughput, measured, stage_seconds
from refusal_lightning.store.estimate import Estimate, estimate
from refusal_lightning.store.format.chunking import choose_geometry

log = logging.getLogger(__name__)


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

    INTERVENTIONS.require(evaluate.interventions, "evaluate.interventions")
    if plan.out is not None:
        writable_folder(Path(plan.out).parent, "plan.out")
    chat = open_model(model)
    config = chat.qwen1_config or AutoConfig.from_pretrained(
        chat.source, revision=chat.revision, trust_remote_code=model.trust_remote_code
    )
    size = model_size(config, model.trust_remote_code)
    arithmetic = Arithmetic.of(config, size)
    weights = weight_bytes(size, model.dtype)

    lengths = cached_lengths(chat, data, cache, plan)
    layout, encoding = store_layout(chat, cache), store_encoding(store)
    geometry = choose_geometry(layout, encoding, len(lengths), sum(lengths), max(lengths))
    ratios = known_ratios(chat.alias, store, layout)
    disk = estimate(layout, encoding, len(lengths), sum(lengths), geometry=geometry, ratios=ratios)
    shard_bytes = disk.bytes / max(1, -(-len(lengths) // geometry.shard_prompts))

    device, devices, on_cpu = _device(trainer, plan)
    placed = PlacedModel(arithmetic, config, model.dtype, weights, on_cpu)
    spread = model.device_map is not None or trainer.strategy == "device_map"
    stages = {
        "cache": cache_plan(placed, lengths, geometry.shard_prompts, cache.batch_size),
        "select": select_plan(placed, chat, data, select, device),
        "evaluate": evaluate_plan(placed, chat, data, evaluate, device, spread),
    }
    host = LIBRARIES + SHARDS * shard_bytes
    needs = [
        place(weights + stage.kept, stage.work + (host if on_cpu else 0), device, devices, trainer.num_nodes)
        for stage in stages.values()
    ]
    fits = min(needs, key=lambda need: (need.copies, -need.memory))
    copies = max(fits.copies, 1)

    log.info(
        f"{chat.alias}: {size.total:,} parameters ({size.per_token + size.head:,} at work on each new token), "
        f"{weights / 1e9:.2f} GB in {model.dtype}"
    )
    log.info(_placement_line(fits.strategy, fits.memory, device, devices, trainer.num_nodes))
    log.info("")
    log.info(f"{'at most':10}{'prompts':>10}{'tokens':>14}{'FLOPs':>12}{'time':>10}{'memory per device':>20}")
    speed = _speed(plan, placed)
    parts = devices if fits.strategy == "device_map" else 1
    rows: dict[str, dict[str, Any]] = {}
    for name, stage in stages.items():
        seconds = stage_seconds(stage.flops, stage.reads, weights, copies, speed)
        memory = (weights + stage.kept) / parts + stage.work + (LIBRARIES if on_cpu else 0)
        if name == "cache" and on_cpu:
            memory += SHARDS * shard_bytes
        rows[name] = {**asdict(stage), "seconds": seconds, "memory_per_device": memory}
        log.info(
            f"{name:10}{stage.prompts:>10,}{stage.tokens:>14,}{stage.flops:>12.2e}{_duration(seconds):>10}"
            f"{f'{memory / 1e9:.2f} GB':>20}"
        )
    log.info(
        f"times at {speed.tflops:.3g} TFLOP/s and {speed.gb_per_s:.3g} GB/s per device ({speed.source}; plan.tflops, "
        f"plan.gb_per_s), start-up included, with {copies} {'copy' if copies == 1 else 'copies'} of the model at work; "
        "`select` is usually done after a "
        "fraction of this, and answers end before evaluate.max_new_tokens"
    )
    log.info(_store_line(disk, encoding.compression, bool(ratios)))
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
                "throughput": speed._asdict(),
                "stages": rows,
                "store": asdict(disk),
            },
        )


def _speed(plan: PlanConfig, placed: PlacedModel) -> Throughput:
    """What is stated; the rest is measured of CPUs and assumed of GPUs."""
    if plan.tflops is not None and plan.gb_per_s is not None:
        return Throughput(plan.tflops, plan.gb_per_s, "stated")
    text = placed.config.get_text_config()
    d_mlp = getattr(text, "intermediate_size", None) or 4 * text.hidden_size
    found = measured(placed.dtype, text.hidden_size, d_mlp) if placed.on_cpu else ASSUMED
    return Throughput(plan.tflops or found.tflops, plan.gb_per_s or found.gb_per_s, found.source)


def _device(trainer: TrainerConfig, plan: PlanConfig) -> tuple[float, int, bool]:
    """Bytes of memory of a device, devices per node, and whether they are CPU processes of one host."""
    import torch

    from refusal_lightning.inference.batch_size import host_memory

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
