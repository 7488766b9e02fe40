"""Speed of objects at a URL: this package's backend (obstore) beside zarr's store over fsspec (s3fs), alternating.

    pip install s3fs 'moto[s3]' flask flask-cors && python benchmarks/remote_store.py

Starts an S3 server on loopback (moto), so what is measured is what the clients cost, not a network. Each round writes
shards as a cache job does, reads them whole and two chunks of each, and writes, creates, lists and reads many small
objects. Prints medians.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from zarr.abc.store import RangeByteRequest
from zarr.buffer import cpu
from zarr.storage import FsspecStore

from refusal_lightning.store.backend.open import open_backend
from refusal_lightning.store.backend.protocol import Backend

MIB = 1 << 20
TAIL = 5000
"""Bytes that a shard's index takes, and that are read before its chunks."""
SELECTED = (3, 9)
"""Chunks of a selective read."""


@contextmanager
def s3_server() -> Iterator[str]:
    """The endpoint of an S3 server with a bucket `bucket`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(urllib.request.Request(f"{url}/bucket", method="PUT"), timeout=5)
                break
            except OSError:
                time.sleep(0.1)
        yield url
    finally:
        server.terminate()
        server.wait()


class Ours:
    """The package's backend."""

    def __init__(self, endpoint: str) -> None:
        options = {"access_key_id": "x", "secret_access_key": "x", "endpoint": endpoint, "region": "us-east-1"}
        self._backend: Backend = open_backend("s3://bucket/ours", options)

    def write(self, key: str, parts: list[np.ndarray]) -> None:
        self._backend.write(key, ([part] for part in parts))

    def read(self, key: str) -> int:
        return len(self._backend.read(key) or b"")

    def read_parts(self, key: str, parts: list[tuple[int, int]]) -> int:
        with self._backend.open(key) as reader:
            reader.read(reader.size - TAIL, reader.size, bytearray())
            reader.prefetch(parts)
            return sum(len(reader.read(start, stop, bytearray())) for start, stop in parts)


class Fsspec:
    """zarr's store over s3fs, as its users have it: requests of a read are in flight together."""

    def __init__(self, endpoint: str) -> None:
        kwargs = {"endpoint_url": endpoint, "region_name": "us-east-1"}
        self._loop = asyncio.Runner()
        self._store = self._loop.run(self._open({"key": "x", "secret": "x", "client_kwargs": kwargs}))

    async def _open(self, options: dict[str, Any]) -> FsspecStore:
        return FsspecStore.from_url("s3://bucket/fsspec", storage_options={**options, "asynchronous": True})

    def write(self, key: str, parts: list[np.ndarray]) -> None:
        self._loop.run(self._store.set(key, cpu.Buffer.from_bytes(b"".join(part.data for part in parts))))

    def read(self, key: str) -> int:
        buffer = self._loop.run(self._store.get(key, cpu.buffer_prototype))
        return 0 if buffer is None else len(buffer)

    def read_parts(self, key: str, parts: list[tuple[int, int]]) -> int:
        async def get() -> int:
            size = await self._store.getsize(key)
            await self._store.get(key, cpu.buffer_prototype, RangeByteRequest(size - TAIL, size))
            joined: list[tuple[int, int]] = []
            for start, stop in parts:
                if joined and joined[-1][1] == start:
                    joined[-1] = (joined[-1][0], stop)
                else:
                    joined.append((start, stop))
            requests = [self._store.get(key, cpu.buffer_prototype, RangeByteRequest(*part)) for part in joined]
            return sum(len(found) for found in await asyncio.gather(*requests) if found is not None)

        return self._loop.run(get())


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=4, help="shards of 32 MiB (default 4)")
    parser.add_argument("--small", type=int, default=50, help="small objects (default 50)")
    parser.add_argument("--rounds", type=int, default=7, help="times that each is measured (default 7)")
    args = parser.parse_args()
    chunks = list(np.random.default_rng(0).integers(0, 256, (32, MIB), dtype=np.uint8))
    small = [np.frombuffer(os.urandom(2000), np.uint8)]
    every = [(place * MIB, (place + 1) * MIB) for place in range(len(chunks))]
    some = [every[place] for place in SELECTED]
    shards, names = range(args.shards), range(args.small)
    times: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    with s3_server() as endpoint:
        clients: dict[str, Ours | Fsspec] = {"obstore": Ours(endpoint), "fsspec": Fsspec(endpoint)}
        works: dict[str, Callable[[Ours | Fsspec], int]] = {
            "write shards": lambda client: sum(client.write(f"a/{i}", chunks) is None for i in shards),
            "read shards whole": lambda client: sum(client.read_parts(f"a/{i}", every) for i in shards),
            "read two chunks of each": lambda client: sum(client.read_parts(f"a/{i}", some) for i in shards),
            "write small objects": lambda client: sum(client.write(f"s/{i}", small) is None for i in names),
            "read small objects": lambda client: sum(client.read(f"s/{i}") for i in names),
        }
        for _ in range(args.rounds):
            for what, work in works.items():
                results = set()
                for name, client in clients.items():
                    started = time.perf_counter()
                    results.add(work(client))
                    times[what][name].append(time.perf_counter() - started)
                assert len(results) == 1, (what, results)
    print(f"{'seconds':<26}{'obstore':>10}{'fsspec':>10}{'fsspec / obstore':>18}")
    for what, by_client in times.items():
        ours, theirs = (statistics.median(by_client[name]) for name in ("obstore", "fsspec"))
        print(f"{what:<26}{ours:>10.3f}{theirs:>10.3f}{theirs / ours:>18.2f}")


if __name__ == "__main__":
    main()
