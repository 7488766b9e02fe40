"""How fast a device works: stated, assumed of a GPU, or measured of this machine's CPUs in about a second."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

ROWS = 512
"""Tokens of the pass that is timed: about what a batch of prompts has."""
LARGE = 64 << 20
"""Bytes of the weights that are read to time the memory: more than caches hold."""
SECONDS = 0.4
"""How long each of the two is timed."""
START_UP = 8.0
"""Seconds that a stage takes beside its work. Measured: 7.2 to 8.9 s for `cache` and `select` of a tiny model in one
process, Linux, CPUs with other work too (6.3 to 7.4 s of a CPU's time); 3 to 5 s where nothing is to be computed."""
LOADED = 0.5e9
"""Bytes of weights that are loaded per second, hooks included. Measured: 0.4e9 (0.8e9 by the CPU's time) for 0.7 GB in
float32 on the same machine, from files that it had read before; a disk may be slower."""


class Throughput(NamedTuple):
    """What a device really does."""

    tflops: float
    gb_per_s: float
    source: str
    """stated, assumed or measured here."""


ASSUMED = Throughput(100.0, 2000.0, "assumed")
"""Of a GPU that nothing is stated of: about half of what its maker says of one of the A100's generation."""


def measured(dtype: str, d_model: int, d_mlp: int) -> Throughput:
    """Of this machine's CPUs: prompts through a matrix as large as an MLP's, and one token through a large one, as a
    decoding step reads its weights; in the model's own type."""
    import torch

    kind: torch.dtype = getattr(torch, dtype)
    matrix, prompts = torch.ones(d_model, d_mlp, dtype=kind), torch.ones(ROWS, d_model, dtype=kind)
    width = max(1, LARGE // (d_model * kind.itemsize))
    large, token = torch.ones(width, d_model, dtype=kind), torch.ones(d_model, dtype=kind)
    with torch.inference_mode():
        flops = 2 * ROWS * d_model * d_mlp * _per_second(lambda: prompts @ matrix)
        read = large.nbytes * _per_second(lambda: large @ token)
    return Throughput(flops / 1e12, read / 1e9, "measured here")


def _per_second(work: Callable[[], object]) -> float:
    """How often it is done in a second."""
    work()
    started, count = time.perf_counter(), 0
    while (passed := time.perf_counter() - started) < SECONDS:
        work()
        count += 1
    return count / passed


def stage_seconds(flops: float, reads: float, weights: int, copies: int, speed: Throughput) -> float:
    """Of a stage whose arithmetic and reads of weights are shared by so many copies of the model, start-up included."""
    work = flops / (speed.tflops * 1e12) + reads / (speed.gb_per_s * 1e9)
    return START_UP + weights / LOADED + work / copies
