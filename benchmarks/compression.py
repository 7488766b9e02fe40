"""What each compression makes of real residual activations: bytes per value, and speed on one thread.

    python benchmarks/compression.py STORE

STORE is an activation store of a float32 model, such as the demo's. Its `resid_pre` chunks (and its logits) are
encoded and decoded as the store does it, as they are and rounded to float16 and bfloat16. `RATIOS` in
`refusal_lightning/store/estimate.py` and the table in docs/store.md are from here.
"""

from __future__ import annotations

import argparse
import itertools
import time

import numpy as np

from refusal_lightning.store import ActivationStore, Encoding, Layout
from refusal_lightning.store.format.chunking import array_specs, choose_geometry
from refusal_lightning.store.format.compression import compress, decompress
from refusal_lightning.store.format.layout import LOGITS
from refusal_lightning.store.format.shard_file import stored_chunk


def rounded(values: np.ndarray, dtype: str) -> np.ndarray:
    """Float32 values that a type holds exactly."""
    if dtype == "float16":
        return values.astype(np.float16).astype(np.float32)
    if dtype == "bfloat16":
        bits = values.view(np.uint32)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)
    return values


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", help="folder of an activation store")
    parser.add_argument(
        "--rounds", type=int, default=3, help="times that each is measured; the best counts (default 3)"
    )
    args = parser.parse_args()
    store = ActivationStore.open(args.store)
    held = store.layout
    print("array              dtype     compression  bytes/value  of uncompressed  write MB/s  read MB/s")
    for name in ("resid_pre", LOGITS):
        data = store.read(name)[:256]
        for dtype, compression in itertools.product(("float32", "float16", "bfloat16"), ("none", "zstd", "lz4")):
            if name == LOGITS and dtype != "float32":
                continue
            layout = Layout(held.hook_points, held.layers, held.positions, held.d_model, held.vocab_size, dtype)  # type: ignore[arg-type]
            encoding = Encoding(compression)  # type: ignore[arg-type]
            spec = array_specs(layout, encoding, choose_geometry(layout, encoding, len(data)))[name]
            values = rounded(data, dtype).reshape(len(data), spec.n_layers, -1)
            chunks = [
                np.ascontiguousarray(values[i : i + spec.chunk_rows, group])
                for i in range(0, len(data) - spec.chunk_rows + 1, spec.chunk_rows)
                for group in range(spec.n_layers)
            ]
            count = sum(chunk.size for chunk in chunks)
            scratch = np.empty((spec.chunk_rows, spec.values), dtype=spec.stored)
            written, read = [], []
            for _ in range(args.rounds):
                started = time.perf_counter()
                encoded = [compress(encoding.compression, stored_chunk(spec, chunk)) for chunk in chunks]
                written.append(time.perf_counter() - started)
                raw = [np.frombuffer(part, np.uint8) for part in encoded]
                started = time.perf_counter()
                for part in raw:
                    decompress(encoding.compression, part, scratch)
                read.append(time.perf_counter() - started)
            size = sum(len(part) for part in raw)
            width = 4 if dtype == "float32" else 2
            mb = count * width / 1e6
            print(
                f"{name:<18} {dtype:<9} {compression:<12} {size / count:11.3f} {size / count / width:16.3f} "
                f"{mb / min(written):11.0f} {mb / min(read):10.0f}"
            )


if __name__ == "__main__":
    main()
