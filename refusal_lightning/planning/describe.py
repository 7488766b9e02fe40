"""A plan in words."""

from __future__ import annotations

from refusal_lightning.planning.hardware import Hardware
from refusal_lightning.planning.placement import Placement
from refusal_lightning.planning.plan import Plan
from refusal_lightning.store.estimate import Estimate


def describe(plan: Plan) -> list[str]:
    """Lines for the user."""
    active = plan.size.per_token + plan.size.head
    return [
        f"{plan.alias}: {plan.size.total:,} parameters ({active:,} at work on each new token), "
        f"{plan.weights / 1e9:.2f} GB in {plan.dtype}",
        _placement_line(plan.fits, plan.hardware),
        "",
        *_table(plan),
        f"times at {plan.speed.tflops:.3g} TFLOP/s and {plan.speed.gb_per_s:.3g} GB/s per device "
        f"({plan.speed.source}; plan.tflops, plan.gb_per_s), start-up included, with {plan.copies} "
        f"{'copy' if plan.copies == 1 else 'copies'} of the model at work; `select` is usually done after a fraction "
        "of this, and answers end before evaluate.max_new_tokens",
        _store_line(plan.disk, plan.compression, plan.ratios_are_known),
    ]


def _table(plan: Plan) -> list[str]:
    lines = [f"{'at most':10}{'prompts':>10}{'tokens':>14}{'FLOPs':>12}{'time':>10}{'memory per device':>20}"]
    for name, stage in plan.stages.items():
        takes = stage.estimate
        lines.append(
            f"{name:10}{takes.prompts:>10,}{takes.tokens:>14,}{takes.flops:>12.2e}{_duration(stage.seconds):>10}"
            f"{f'{stage.memory_per_device / 1e9:.2f} GB':>20}"
        )
    return lines


def _placement_line(fits: Placement, hardware: Hardware) -> str:
    devices, nodes = hardware.devices, hardware.nodes
    needs = f"{fits.memory / 1e9:.1f} of {hardware.memory / 1e9:.1f} GB on each device"
    over = f"{nodes} x {devices} device{'s' if devices * nodes > 1 else ''}"
    if fits.strategy is None:
        return (
            f"does not fit: {over} would need {needs}; take more devices per node, a half type (model.dtype), or "
            "smaller batches (cache.batch_size, select.batch_size, evaluate.batch_size)"
        )
    if fits.strategy == "ddp":
        return f"fits: a copy on each of {over} (trainer.strategy: ddp), {needs}"
    return (
        f"fits: a copy over the {devices} devices of each of {nodes} node{'s' if nodes > 1 else ''} "
        f"(trainer.strategy: device_map), {needs}; they work one after the other, so each node counts as one device"
    )


def _store_line(disk: Estimate, compression: str, ratios_are_known: bool) -> str:
    if compression == "none":
        return f"store: {disk.bytes / 1e9:.3f} GB in {disk.files} files"
    basis = (
        "by the ratio of the prompts that are there already"
        if ratios_are_known
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
