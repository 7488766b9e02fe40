"""What an estimate says, real stores keep to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stores import LAYOUT, RAGGED, fill, make, record, records

from refusal_lightning.store import Encoding, Layout, PromptRecord, estimate
from refusal_lightning.store.format.chunking import LARGEST, SMALLEST, array_specs, choose_geometry


@pytest.mark.parametrize("compression", ["none", "zstd"])
@pytest.mark.parametrize("layout", [LAYOUT, RAGGED, Layout(("resid_post",), (0,), (-1,), 300, dtype="float16")])
@pytest.mark.parametrize("count", [1, 13, 100])
def test_estimates_against_stores(compression, layout, count, tmp_path):
    store = make(tmp_path / "s", layout=layout, compression=compression, shard_bytes=8000, longest=7)
    tokens = sum(record(n).n_tokens for n in range(count))
    told = store.estimate(count, tokens if layout.ragged else None)
    store.add_prompts(records(range(count)))
    fill(store)
    files = [path for path in Path(store.url).rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    assert size <= told.bytes
    assert len(files) <= told.files <= 1.4 * len(files) if layout.ragged else told.files == len(files)
    if compression == "none" and not layout.ragged:
        assert told.bytes - size < 40_000


def test_uncompressed_bytes_are_within_two_percent(tmp_path):
    layout = Layout(("resid_pre",), tuple(range(12)), (-3, -2, -1), d_model=256, vocab_size=1000)
    store = make(tmp_path / "s", layout=layout, compression="none", shard_bytes=1 << 20)
    store.add_prompts([PromptRecord(f"{i:064x}", 5) for i in range(150)])
    for shard in store.pending():
        shape = {name: (shard.n_rows, *spec.shape) for name, spec in _specs(store).items()}
        store.write_shard(shard.index, {name: np.ones(s, np.float32) for name, s in shape.items()})
    size = sum(path.stat().st_size for path in Path(store.url).rglob("*") if path.is_file())
    assert size <= store.estimate(150).bytes <= 1.02 * size


def _specs(store):
    return array_specs(store.layout, store.encoding, store._state.manifest.geometry)


@pytest.mark.parametrize("compression", ["none", "zstd"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_files_at_100_000_prompts(compression, dtype):
    """Fewer than 2,000 files for 100,000 prompts x 32 layers x 5 positions, with the logits too."""
    layout = Layout(("resid_pre",), tuple(range(32)), (-5, -4, -3, -2, -1), 4096, vocab_size=128_256, dtype=dtype)
    assert estimate(layout, Encoding(compression), 100_000).files < 2000


@given(
    hooks=st.integers(1, 5),
    layers=st.integers(1, 80),
    positions=st.integers(1, 8),
    d_model=st.integers(1, 8192),
    vocab=st.one_of(st.none(), st.integers(1, 260_000)),
    prompts=st.integers(1, 200_000),
    ragged=st.booleans(),
    longest=st.integers(1, 3000),
)
def test_geometry(hooks, layers, positions, d_model, vocab, prompts, ragged, longest):
    """Chunks divide shards, shards are of the size asked for, and one prompt always fits."""
    names = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")[:hooks]
    layout = Layout(names, tuple(range(layers)), "all" if ragged else tuple(range(-positions, 0)), d_model, vocab)
    encoding = Encoding("none")
    geometry = choose_geometry(layout, encoding, prompts, prompts * max(1, longest // 2), longest)
    for spec in array_specs(layout, encoding, geometry).values():
        assert spec.shard_rows % spec.chunk_rows == 0 and spec.row_chunks * spec.chunk_rows == spec.shard_rows
        assert all(s % c == 0 for s, c in zip(spec.shard_shape, spec.chunk_shape, strict=True))
        assert np.prod(spec.grid) == spec.row_chunks * spec.n_layers
        assert spec.chunk_bytes <= max(1 << 20, spec.values * 4)
    per_prompt = sum(4 * np.prod(spec.shape) for spec in array_specs(layout, encoding, geometry).values())
    if ragged:
        assert geometry.shard_tokens is not None and geometry.shard_tokens >= longest
    else:
        size = per_prompt * geometry.shard_prompts
        assert size <= LARGEST or geometry.shard_prompts == 1
        assert size >= SMALLEST / 4 or per_prompt > SMALLEST / 4
