"""The activation store beside what else writes and reads the same arrays on the same disk, in turn in one run.

    python benchmarks/store.py --folder /where/the/disk/is [--compression lz4]

Opponents: ``numpy.save`` and ``numpy.memmap`` (uncompressed only), zarr-python, zarr-python with zarrs
(``pip install zarrs``) and tensorstore (``pip install tensorstore``); those that are not installed are left out. All
zarr ones write the store's own layout: shards and chunks of the same shape, the same compression, checksums on. A
write ends when the data are on the disk: the files of those that do not fsync are synced. Read are all values, one
layer of all prompts, and that of every eighth prompt; caches are warm. Prints medians, and the seconds of CPU of all
threads, which say more on a machine that does other things.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import shutil
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import zarr

from refusal_lightning.store import ActivationStore, Encoding, Layout, PromptRecord
from refusal_lightning.store.format.chunking import ArraySpec, array_specs, choose_geometry
from refusal_lightning.store.format.layout import Compression
from refusal_lightning.store.format.metadata import create_zarr_array

GIB = 1 << 30
NAME = "resid_pre"
LAYER = 16


class Opponent(Protocol):
    """Somebody who keeps an array in a folder."""

    def create(self, folder: Path, prompts: int) -> None:
        """An array without values, in a new folder."""

    def write(self, folder: Path, data: np.ndarray) -> None:
        """All values."""

    def read(self, folder: Path, prompts: slice, layer: int | None) -> np.ndarray:
        """``array[prompts]``, or of these one layer."""


class Ours:
    """The activation store."""

    def __init__(self, layout: Layout, encoding: Encoding) -> None:
        self._layout, self._encoding = layout, encoding
        self._store: ActivationStore

    def create(self, folder: Path, prompts: int) -> None:
        self._store = ActivationStore.create_or_open(
            folder, {"benchmark": 1}, self._layout, self._encoding, planned=prompts
        )
        self._store.add_prompts([PromptRecord(hashlib.sha256(b"%d" % i).hexdigest(), 20) for i in range(prompts)])

    def write(self, folder: Path, data: np.ndarray) -> None:
        for shard in self._store.pending():
            self._store.write_shard(shard.index, {NAME: data[shard.rows.start : shard.rows.stop]})

    def read(self, folder: Path, prompts: slice, layer: int | None) -> np.ndarray:
        rows = self._store.complete_rows()[prompts]
        return self._store.read(NAME, rows) if layer is None else self._store.read(NAME, rows, [layer])[:, 0]


class Numpy:
    """``numpy.save`` and a copy of ``numpy.memmap``."""

    def create(self, folder: Path, prompts: int) -> None:
        folder.mkdir()

    def write(self, folder: Path, data: np.ndarray) -> None:
        with (folder / "plain.npy").open("wb") as file:
            np.save(file, data)
            file.flush()
            os.fsync(file.fileno())

    def read(self, folder: Path, prompts: slice, layer: int | None) -> np.ndarray:
        return np.array(np.load(folder / "plain.npy", mmap_mode="r")[_index(prompts, layer)])


class Zarr:
    """zarr-python, shard by shard, with its own codecs or those of zarrs."""

    def __init__(self, spec: ArraySpec, compression: Compression, pipeline: str | None = None) -> None:
        self._spec, self._compression = spec, compression
        self._config: dict[str, Any] = {} if pipeline is None else {"codec_pipeline.path": pipeline}

    def create(self, folder: Path, prompts: int) -> None:
        create_zarr_array(zarr.storage.LocalStore(folder), self._spec, self._compression, prompts)

    def write(self, folder: Path, data: np.ndarray) -> None:
        with zarr.config.set(self._config):
            array = zarr.open_array(folder, path=NAME, mode="r+")
            for start in range(0, len(data), self._spec.shard_rows):
                array[start : start + self._spec.shard_rows] = data[start : start + self._spec.shard_rows]
        sync(folder)

    def read(self, folder: Path, prompts: slice, layer: int | None) -> np.ndarray:
        with zarr.config.set(self._config):
            return np.asarray(zarr.open_array(folder, path=NAME, mode="r")[_index(prompts, layer)])


class Tensorstore:
    """tensorstore, which writes all shards of an array at once."""

    def __init__(self, spec: ArraySpec, compression: Compression) -> None:
        self._spec, self._compression = spec, compression

    def _open(self, folder: Path) -> Any:
        import tensorstore

        kvstore = {"driver": "file", "path": f"{folder}/{NAME}"}
        return tensorstore.open({"driver": "zarr3", "kvstore": kvstore}, open=True).result()

    def create(self, folder: Path, prompts: int) -> None:
        create_zarr_array(zarr.storage.LocalStore(folder), self._spec, self._compression, prompts)

    def write(self, folder: Path, data: np.ndarray) -> None:
        self._open(folder)[...].write(data).result()
        sync(folder)

    def read(self, folder: Path, prompts: slice, layer: int | None) -> np.ndarray:
        return self._open(folder)[_index(prompts, layer)].read().result()


def _index(prompts: slice, layer: int | None) -> Any:
    return prompts if layer is None else (prompts, layer)


def sync(folder: Path) -> None:
    """Have all files of a folder on the disk, and their names."""
    for path in (folder, *folder.rglob("*")):
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)


def opponents(layout: Layout, encoding: Encoding, prompts: int) -> dict[str, Opponent]:
    """All that are installed, by name."""
    spec = array_specs(layout, encoding, choose_geometry(layout, encoding, prompts))[NAME]
    found: dict[str, Opponent] = {"store": Ours(layout, encoding)}
    if encoding.compression == "none":
        found["numpy"] = Numpy()
    found["zarr"] = Zarr(spec, encoding.compression)
    if importlib.util.find_spec("zarrs"):
        import zarrs  # noqa: F401  # registers its codecs

        found["zarr + zarrs"] = Zarr(spec, encoding.compression, "zarrs.ZarrsCodecPipeline")
    if importlib.util.find_spec("tensorstore"):
        found["tensorstore"] = Tensorstore(spec, encoding.compression)
    return found


def timed(run: Callable[[], Any]) -> tuple[float, float, Any]:
    """(seconds that a call takes, seconds of CPU in all threads, what it returns)."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = run()
    return time.perf_counter() - wall, time.process_time() - cpu, result


def main() -> None:
    """Run the comparison and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", default=tempfile.gettempdir(), help="folder on the disk to measure")
    parser.add_argument("--gib", type=float, default=0.5, help="GiB of float32 values (default 0.5)")
    parser.add_argument("--rounds", type=int, default=7, help="times that each is measured (default 7)")
    parser.add_argument("--compression", default="none", choices=["none", "zstd", "lz4"])
    args = parser.parse_args()
    layout = Layout((NAME,), tuple(range(32)), (-5, -4, -3, -2, -1), 4096)
    prompts = int(args.gib * GIB / (32 * 5 * 4096 * 4))
    data = np.random.default_rng(0).standard_normal((prompts, 32, 5, 4096), dtype=np.float32)
    reads = {"all": (slice(None), None), "a layer": (slice(None), LAYER), "of every 8th": (slice(None, None, 8), LAYER)}
    times: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    players = opponents(layout, Encoding(args.compression), prompts)
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folders = {player: Path(name, player.replace(" ", "")) for player in players}
        for _ in range(args.rounds):
            for player, opponent in players.items():
                shutil.rmtree(folders[player], ignore_errors=True)
                opponent.create(folders[player], prompts)
                os.sync()
                times[player, "write"].append(timed(lambda: opponent.write(folders[player], data))[:2])  # noqa: B023
        for _ in range(args.rounds):
            for what, index in reads.items():
                for player, opponent in players.items():
                    wall, cpu, found = timed(lambda: opponent.read(folders[player], *index))  # noqa: B023
                    times[player, what].append((wall, cpu))
                    assert np.array_equal(found, data[_index(*index)])
    print(f"{data.nbytes / GIB:.2f} GiB of float32, {args.compression}; seconds (of CPU), medians of {args.rounds}")
    columns = ["write", *reads]
    print("".join([f"{'':<14}", *(f"{column:>20}" for column in columns)]))
    for player in players:
        cells = [[statistics.median(v) for v in zip(*times[player, column], strict=True)] for column in columns]
        print("".join([f"{player:<14}", *(f"{wall:>12.3f} ({cpu:.2f})" for wall, cpu in cells)]))
    for what, column in (("write", "write"), ("read", "all")):  # what against.py looks for
        wall = statistics.median(seconds for seconds, _ in times["store", column])
        print(f"{what + ' store':<14}{data.nbytes / GIB / wall:>12.2f} GiB/s")


if __name__ == "__main__":
    main()
