"""Streaming means and covariances against numpy on the whole."""

from __future__ import annotations

import numpy as np
import pytest
from stores import LAYOUT, RAGGED, expected, fill, filled, hashes, make, records

from refusal_lightning.errors import UserError
from refusal_lightning.store import Layout, PromptRecord


@pytest.mark.parametrize(("dtype", "compression"), [("float32", "none"), ("bfloat16", "none"), ("float16", "lz4")])
def test_mean_and_covariance(dtype, compression, tmp_path):
    layout = Layout(LAYOUT.hook_points, LAYOUT.layers, LAYOUT.positions, 8, vocab_size=5, dtype=dtype)
    store = filled(tmp_path / "s", range(40), layout=layout, compression=compression)
    numbers = list(range(1, 40, 2))
    whole = expected(layout, "attn_out", numbers).astype(np.float64)
    mean = store.mean("attn_out", hashes(numbers))
    assert mean.dtype == np.float64 and mean.shape == (3, 2, 8)
    np.testing.assert_allclose(mean, whole.mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(store.mean("attn_out", hashes(numbers), layers=[2]), whole.mean(axis=0)[[2]], rtol=1e-13)
    covariance = store.covariance("attn_out", hashes(numbers), layers=[1, 0])
    assert covariance.shape == (2, 2, 8, 8)
    np.testing.assert_allclose(covariance[0, 1], np.cov(whole[:, 1, 1].T), rtol=1e-10)
    logits = store.mean("next_token_logits", hashes(numbers))
    np.testing.assert_allclose(
        logits, expected(layout, "next_token_logits", numbers).mean(axis=0, dtype=np.float64), rtol=1e-13
    )


def test_large_means_cancel_nothing(tmp_path):
    """A residual stream's mean can be 1e4 times its spread."""
    layout = Layout(("resid_pre",), (0,), (-1,), d_model=3)
    store = make(tmp_path / "s", layout=layout, compression="none", shard_bytes=600)
    store.add_prompts(records(range(200)))
    data = (10_000 + np.random.default_rng(0).standard_normal((200, 1, 1, 3))).astype(np.float32)
    for shard in store.pending():
        store.write_shard(shard.index, {"resid_pre": data[shard.rows.start : shard.rows.stop]})
    wide = data[:, 0, 0].astype(np.float64)
    np.testing.assert_allclose(store.mean("resid_pre", hashes(range(200)))[0, 0], wide.mean(axis=0), rtol=1e-15)
    np.testing.assert_allclose(store.covariance("resid_pre", hashes(range(200)))[0, 0], np.cov(wide.T), rtol=1e-9)


def test_all_positions(tmp_path):
    store = filled(tmp_path / "s", range(20), layout=RAGGED)
    numbers = [3, 19, 6]
    whole = expected(RAGGED, "resid_pre", numbers).astype(np.float64)
    np.testing.assert_allclose(store.mean("resid_pre", hashes(numbers)), whole.mean(axis=0), rtol=1e-13)
    covariance = store.covariance("resid_pre", hashes(numbers), layers=[2])
    np.testing.assert_allclose(covariance[0], np.cov(whole[:, 1].T), rtol=1e-10)


def test_the_mean_does_not_depend_on_threads(tmp_path, monkeypatch):
    """Sums are taken in the order of shards, however many threads there are."""
    from refusal_lightning.store import reading

    layout = Layout(("resid_pre",), tuple(range(8)), (-2, -1), d_model=512)
    store = make(tmp_path / "s", layout=layout, compression="zstd", shard_bytes=1 << 20)
    prompts = [PromptRecord(f"{i:064x}", 3) for i in range(200)]
    store.add_prompts(prompts)
    data = np.random.default_rng(0).standard_normal((200, 8, 2, 512), dtype=np.float32)
    for shard in store.pending():
        store.write_shard(shard.index, {"resid_pre": data[shard.rows.start : shard.rows.stop]})
    means, reads = [], []
    for threads in (1, 2, 5):
        monkeypatch.setattr(reading, "thread_count", lambda size, threads=threads: threads)
        means.append(store.mean("resid_pre", [p.hash for p in prompts]))
        reads.append(store.read("resid_pre"))
    assert means[0].tobytes() == means[1].tobytes() == means[2].tobytes()
    for read in reads:
        np.testing.assert_array_equal(read, data)


def test_mistakes(tmp_path):
    store = filled(tmp_path / "s", range(3))
    with pytest.raises(UserError, match="no prompts"):
        store.mean("resid_pre", [])
    with pytest.raises(UserError, match="no covariance of next_token_logits"):
        store.covariance("next_token_logits", hashes(range(3)))
    with pytest.raises(UserError, match="has no layers"):
        store.mean("next_token_logits", hashes(range(3)), layers=[0])
    fill(store)
