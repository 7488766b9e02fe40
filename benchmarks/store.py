"""Speed of the activation store beside plain numpy files on the same disk, in the same run, alternating.

    python benchmarks/store.py --folder /where/the/disk/is

Writes ``--gib`` GiB of made-up activations (normal numbers, real shapes) several times in turn: ``numpy.save`` alone,
``numpy.save`` and fsync, and ``ActivationStore.write_shard``, which always makes its data durable. Then reads all of
it, and one layer of all prompts, in turn: a copy of ``numpy.memmap``, and ``ActivationStore.read``. Prints medians
and ratios.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np

from refusal_lightning.store import ActivationStore, Encoding, Layout, PromptRecord

GIB = 1 << 30


def activations(layout: Layout, prompts: int) -> np.ndarray:
    """[prompt, layer, position, d_model] float32 normal numbers, exact in the layout's type."""
    assert not isinstance(layout.positions, str)
    shape = (prompts, len(layout.layers), len(layout.positions), layout.d_model)
    values = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    if layout.dtype == "float16":
        values = values.astype(np.float16).astype(np.float32)
    if layout.dtype == "bfloat16":
        values.view(np.uint32)[...] &= 0xFFFF0000
    return values


def new_store(folder: Path, layout: Layout, encoding: Encoding, prompts: int) -> ActivationStore:
    """A fresh store with all prompts planned."""
    shutil.rmtree(folder, ignore_errors=True)
    store = ActivationStore.create_or_open(folder, {"benchmark": 1}, layout, encoding, planned=prompts)
    store.add_prompts([PromptRecord(hashlib.sha256(b"%d" % i).hexdigest(), 20) for i in range(prompts)])
    return store


def save_numpy(path: Path, data: np.ndarray, sync: bool) -> None:
    """``numpy.save``, with fsync or without."""
    with path.open("wb") as file:
        np.save(file, data)
        if sync:
            file.flush()
            os.fsync(file.fileno())


def write_store(store: ActivationStore, data: np.ndarray) -> None:
    """Every planned shard, as a cache job writes them."""
    for shard in store.pending():
        store.write_shard(shard.index, {"resid_pre": data[shard.rows.start : shard.rows.stop]})


def timed(run: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def main() -> None:
    """Run the comparison and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", default=tempfile.gettempdir(), help="folder on the disk to measure")
    parser.add_argument("--gib", type=float, default=1.0, help="GiB of float32 values (default 1)")
    parser.add_argument("--rounds", type=int, default=5, help="times that each is measured (default 5)")
    parser.add_argument("--compression", default="none", choices=["none", "zstd", "lz4"])
    parser.add_argument("--dtype", default="float32", choices=["float32", "float16", "bfloat16"])
    args = parser.parse_args()
    layout = Layout(("resid_pre",), tuple(range(32)), (-5, -4, -3, -2, -1), 4096, dtype=args.dtype)
    encoding = Encoding(args.compression)
    prompts = int(args.gib * GIB / (32 * 5 * 4096 * 4))
    data = activations(layout, prompts)
    gib = data.nbytes / GIB
    times: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        plain = folder / "plain.npy"
        for _ in range(args.rounds):
            plain.unlink(missing_ok=True)
            times["write numpy.save"].append(timed(lambda: save_numpy(plain, data, sync=False)))
            os.sync()
            plain.unlink()
            times["write numpy.save + fsync"].append(timed(lambda: save_numpy(plain, data, sync=True)))
            store = new_store(folder / "store.zarr", layout, encoding, prompts)
            times["write store"].append(timed(lambda: write_store(store, data)))  # noqa: B023
        memmap = np.load(plain, mmap_mode="r")
        for _ in range(args.rounds):
            times["read numpy.memmap"].append(timed(lambda: np.array(memmap)))
            times["read store"].append(timed(lambda: store.read("resid_pre")))
            times["layer numpy.memmap"].append(timed(lambda: np.array(memmap[:, 16])))
            times["layer store"].append(timed(lambda: store.read("resid_pre", layers=[16])))
        assert np.array_equal(store.read("resid_pre"), data)
        stored = sum(path.stat().st_size for path in (folder / "store.zarr").rglob("*") if path.is_file())
    print(f"{gib:.2f} GiB of {args.dtype} as float32, {args.compression}: {stored / data.nbytes:.3f} of it on disk")
    median = {name: statistics.median(values) for name, values in times.items()}
    for name, seconds in median.items():
        share = gib / 32 if name.startswith("layer") else gib
        spread = f"{share / max(times[name]):.2f}-{share / min(times[name]):.2f}"
        print(f"{name:<26} {share / seconds:6.2f} GiB/s ({spread})")
    for ours, theirs in (
        ("write store", "write numpy.save"),
        ("write store", "write numpy.save + fsync"),
        ("read store", "read numpy.memmap"),
        ("layer store", "layer numpy.memmap"),
    ):
        print(f"{ours} / {theirs:<26} {median[theirs] / median[ours]:.2f}")


if __name__ == "__main__":
    main()
