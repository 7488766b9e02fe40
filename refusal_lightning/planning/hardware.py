"""What a run has to work with: devices, their memory, and how fast they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from refusal_lightning.config import PlanConfig, TrainerConfig
from refusal_lightning.inference import batch_size
from refusal_lightning.planning.throughput import ASSUMED, Throughput, measured


@dataclass(frozen=True)
class Hardware:
    """Nodes of equal devices."""

    memory: float
    """Bytes of a device."""
    devices: int
    """Per node."""
    nodes: int
    on_cpu: bool
    """Whether the devices are CPU processes of one host."""


def hardware_of(trainer: TrainerConfig, plan: PlanConfig) -> Hardware:
    """What is stated; the rest is that of this machine."""
    gpu = torch.cuda.is_available() and trainer.accelerator != "cpu"
    here = torch.cuda.device_count() if gpu else 1
    devices = trainer.devices if isinstance(trainer.devices, int) else here
    if plan.device_memory_gb is not None:
        memory, on_cpu = plan.device_memory_gb * 1e9, trainer.accelerator == "cpu"
    elif gpu:
        memory, on_cpu = float(torch.cuda.get_device_properties(0).total_memory), False
    else:
        memory, on_cpu = batch_size.host_memory() / devices, True
    return Hardware(memory, devices, trainer.num_nodes, on_cpu)


def speed_of(plan: PlanConfig, config: Any, dtype: str, on_cpu: bool) -> Throughput:
    """What is stated; the rest is measured of CPUs, for a model of this configuration, and assumed of GPUs."""
    if plan.tflops is not None and plan.gb_per_s is not None:
        return Throughput(plan.tflops, plan.gb_per_s, "stated")
    text = config.get_text_config()
    d_mlp = getattr(text, "intermediate_size", None) or 4 * text.hidden_size
    found = measured(dtype, text.hidden_size, d_mlp) if on_cpu else ASSUMED
    return Throughput(plan.tflops or found.tflops, plan.gb_per_s or found.gb_per_s, found.source)
