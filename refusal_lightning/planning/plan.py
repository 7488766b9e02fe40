"""A plan: what each stage of a run will take, and which strategy fits the model to the devices."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from refusal_lightning.planning.estimates import StageEstimate, cache_estimate, evaluate_estimate, select_estimate
from refusal_lightning.planning.hardware import Hardware
from refusal_lightning.planning.inputs import PlanInputs
from refusal_lightning.planning.memory import LIBRARIES, SHARDS
from refusal_lightning.planning.model_size import ModelSize
from refusal_lightning.planning.placement import Placement, place
from refusal_lightning.planning.throughput import Throughput, stage_seconds
from refusal_lightning.store.estimate import Estimate, estimate
from refusal_lightning.store.format.chunking import Geometry, choose_geometry


@dataclass(frozen=True)
class PlannedStage:
    """What a stage takes at most, on the hardware of a plan."""

    estimate: StageEstimate
    seconds: float
    """Start-up included."""
    memory_per_device: float
    """Bytes."""


@dataclass(frozen=True)
class Plan:
    """What a run will take."""

    alias: str
    dtype: str
    size: ModelSize
    weights: int
    """Bytes."""
    hardware: Hardware
    speed: Throughput
    fits: Placement
    """The strategy under which every stage fits."""
    stages: dict[str, PlannedStage]
    """By command, in their order."""
    disk: Estimate
    compression: str
    ratios_are_known: bool
    """Whether compression was measured on a store of this model; else it is the demo model's."""

    @property
    def copies(self) -> int:
        """Copies of the model at work, one where none fits."""
        return max(self.fits.copies, 1)

    def to_json(self) -> dict[str, Any]:
        """As the file has it."""
        return {
            "parameters": asdict(self.size),
            "weights_bytes": self.weights,
            "strategy": self.fits.strategy,
            "copies": self.fits.copies,
            "memory_per_device": self.fits.memory,
            "device_memory": self.hardware.memory,
            "throughput": self.speed._asdict(),
            "stages": {
                name: {
                    **asdict(stage.estimate),
                    "seconds": stage.seconds,
                    "memory_per_device": stage.memory_per_device,
                }
                for name, stage in self.stages.items()
            },
            "store": asdict(self.disk),
        }


def make_plan(inputs: PlanInputs) -> Plan:
    """What each stage takes, where it fits, and how long that lasts."""
    placed, hardware = inputs.placed, inputs.placed.hardware
    geometry, disk = _on_disk(inputs)
    estimates = {
        "cache": cache_estimate(placed, inputs.lengths.cached, geometry.shard_prompts, inputs.cache.batch_size),
        "select": select_estimate(placed, inputs.lengths, inputs.select),
        "evaluate": evaluate_estimate(placed, inputs.lengths, inputs.evaluate),
    }
    # Of the memory that a host's processes take beside the model.
    shards = SHARDS * disk.bytes / max(1, -(-len(inputs.lengths.cached) // geometry.shard_prompts))
    fits = _placement(placed.weights, estimates, LIBRARIES + shards if hardware.on_cpu else 0.0, hardware)
    parts = hardware.devices if fits.strategy == "device_map" else 1
    stages = {}
    for name, stage in estimates.items():
        seconds = stage_seconds(stage.flops, stage.reads, placed.weights, max(fits.copies, 1), inputs.speed)
        memory = (placed.weights + stage.kept) / parts + stage.work
        if hardware.on_cpu:
            memory += LIBRARIES
            memory += shards if name == "cache" else 0
        stages[name] = PlannedStage(stage, seconds, memory)
    return Plan(
        alias=inputs.alias,
        dtype=placed.dtype,
        size=placed.arithmetic.size,
        weights=placed.weights,
        hardware=hardware,
        speed=inputs.speed,
        fits=fits,
        stages=stages,
        disk=disk,
        compression=inputs.encoding.compression,
        ratios_are_known=bool(inputs.ratios),
    )


def _on_disk(inputs: PlanInputs) -> tuple[Geometry, Estimate]:
    """The store's shape and size."""
    lengths, layout, encoding = inputs.lengths.cached, inputs.layout, inputs.encoding
    geometry = choose_geometry(layout, encoding, len(lengths), sum(lengths), max(lengths))
    return geometry, estimate(layout, encoding, len(lengths), sum(lengths), geometry=geometry, ratios=inputs.ratios)


def _placement(weights: int, stages: dict[str, StageEstimate], host: float, hardware: Hardware) -> Placement:
    """Of the stage that needs most."""
    needs = [
        place(weights + stage.kept, stage.work + host, hardware.memory, hardware.devices, hardware.nodes)
        for stage in stages.values()
    ]
    return min(needs, key=lambda need: (need.copies, -need.memory))
