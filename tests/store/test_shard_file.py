"""Our shards against zarr's own sharding codec: each reads the other's, and the bytes are equal."""

from __future__ import annotations

import numpy as np
import pytest
import zarr
from stores import rounded
from zarr.abc.buffer import Buffer
from zarr.storage import MemoryStore

from refusal_lightning.store import Encoding, Layout, StoreError
from refusal_lightning.store.backend.local import LocalBackend
from refusal_lightning.store.format.chunking import ArraySpec, Geometry, array_specs
from refusal_lightning.store.format.metadata import create_zarr_array
from refusal_lightning.store.format.shard_file import BINDING_BYTES, Binding, bound_to, encode, shard_key, shard_number
from refusal_lightning.store.reading import StoredArray, read_rows

CASES = [(c, d) for c in ("none", "zstd", "lz4") for d in ("float32", "float16", "bfloat16")]


def _spec(compression: str, dtype: str, shard_rows: int, chunk_rows: int) -> ArraySpec:
    layout = Layout(("resid_pre",), (0, 1, 2), (-2, -1), d_model=700, dtype=dtype)  # type: ignore[arg-type]
    geometry = Geometry(shard_rows, None, {"resid_pre": chunk_rows})
    return array_specs(layout, Encoding(compression), geometry)["resid_pre"]  # type: ignore[arg-type]


def _data(spec: ArraySpec, dtype: str, rows: int) -> np.ndarray:
    drawn = np.random.default_rng(rows).standard_normal((rows, *spec.shape), dtype=np.float32)
    return rounded(drawn, dtype)


def _as_stored(spec: ArraySpec, data: np.ndarray) -> np.ndarray:
    return (data.view("<u4") >> 16).astype("<u2") if spec.bfloat16_bits else data.astype(spec.stored)


BINDING = Binding(bytes(range(32)))


def _encoded(spec: ArraySpec, compression, data: np.ndarray, binding: Binding | None = BINDING) -> bytes:
    n_layers = data.reshape(len(data), spec.n_layers, spec.values)
    parts = encode(spec, compression, n_layers, binding)
    return b"".join(bytes(memoryview(part).cast("B")) for some in parts for part in some)


@pytest.mark.parametrize(("compression", "dtype"), CASES)
def test_zarr_reads_ours(compression, dtype, tmp_path):
    spec = _spec(compression, dtype, shard_rows=12, chunk_rows=4)
    data = _data(spec, dtype, rows=31)
    array = create_zarr_array(zarr.storage.LocalStore(tmp_path), spec, compression, len(data))
    for shard in range(3):
        part = data[shard * 12 : shard * 12 + 12]
        (tmp_path / shard_key(spec, shard)).write_bytes(_encoded(spec, compression, part))
    np.testing.assert_array_equal(array[...], _as_stored(spec, data))
    np.testing.assert_array_equal(array[5:29, 1], _as_stored(spec, data)[5:29, 1])


@pytest.mark.parametrize(("compression", "dtype"), CASES)
def test_we_read_zarrs(compression, dtype, tmp_path):
    spec = _spec(compression, dtype, shard_rows=12, chunk_rows=4)
    data = _data(spec, dtype, rows=31)
    create_zarr_array(zarr.storage.LocalStore(tmp_path), spec, compression, len(data))[...] = _as_stored(spec, data)
    rows = np.random.default_rng(0).permutation(31)
    read = read_rows(StoredArray(LocalBackend(tmp_path), spec, compression), rows, [2, 0], np.dtype("<f4"))
    np.testing.assert_array_equal(read.reshape(31, 2, 2, 700), data[rows][:, [2, 0]])


@pytest.mark.parametrize(("compression", "dtype"), CASES)
@pytest.mark.parametrize("rows", [12, 7])
def test_bytes_equal_zarrs(compression, dtype, rows):
    """With one chunk of rows per shard, zarr's order of chunks is ours; a partial shard is filled up the same way.

    Ours say in front of their index what they are of, and in nothing else do they differ.
    """
    spec = _spec(compression, dtype, shard_rows=12, chunk_rows=12)
    data = _data(spec, dtype, rows)
    held: dict[str, Buffer] = {}
    create_zarr_array(MemoryStore(held), spec, compression, rows)[...] = _as_stored(spec, data)
    theirs = held[shard_key(spec, 0)].to_bytes()
    assert _encoded(spec, compression, data, None) == theirs
    ours, index = _encoded(spec, compression, data), theirs[-spec.index_bytes :]
    assert ours.endswith(index) and ours[: -spec.index_bytes - BINDING_BYTES] + index == theirs
    assert bound_to(ours[: -spec.index_bytes][-BINDING_BYTES:]) == BINDING.digest


def test_chunks_of_no_prompt_are_left_out():
    spec = _spec("none", "float32", shard_rows=12, chunk_rows=4)
    full, partial = (len(_encoded(spec, "none", _data(spec, "float32", rows))) for rows in (12, 5))
    assert full - partial == 3 * (spec.chunk_bytes + 4)


def test_bits_are_kept():
    """NaN with any payload, infinities, negative zero and denormals, in float32 as they are."""
    spec = _spec("none", "float32", shard_rows=1, chunk_rows=1)
    bits = np.random.default_rng(3).integers(0, 2**32, size=(1, spec.n_layers, spec.values), dtype=np.uint32)
    bits[0, 0, :4] = [0x7F800001, 0xFFC12345, 0x80000000, 0x00000001]
    encoded = _encoded(spec, "none", bits.view(np.float32))
    assert encoded[: 4 * spec.values] == bits[0, 0].tobytes()


@pytest.mark.parametrize(("compression", "dtype"), [("none", "float16"), ("zstd", "float16"), ("none", "bfloat16")])
def test_values_that_do_not_fit_are_refused(compression, dtype):
    spec = _spec(compression, dtype, shard_rows=4, chunk_rows=4)
    data = _data(spec, dtype, rows=4)
    data[2, 1, 0, 5] = 1.0 + 2**-20
    with pytest.raises(ValueError, match="cannot be kept exactly"):
        _encoded(spec, compression, data)


@pytest.mark.parametrize("compression", ["none", "zstd", "lz4"])
def test_every_flipped_byte_is_found(compression, tmp_path):
    layout = Layout(("resid_pre",), (0, 1), (-1,), d_model=3)
    spec = array_specs(layout, Encoding(compression), Geometry(4, None, {"resid_pre": 2}))["resid_pre"]
    data = np.random.default_rng(0).standard_normal((4, 2, 1, 3), dtype=np.float32)
    path = tmp_path / shard_key(spec, 0)
    path.parent.mkdir()
    good = _encoded(spec, compression, data)
    source = StoredArray(LocalBackend(tmp_path), spec, compression, lambda shard: BINDING)
    for place in range(len(good)):
        path.write_bytes(good[:place] + bytes([good[place] ^ 0x10]) + good[place + 1 :])
        with pytest.raises(StoreError, match="shard 0 of array resid_pre"):
            read_rows(source, np.arange(4), [0, 1], np.dtype("<f4"))
    for length in range(len(good)):
        path.write_bytes(good[:length])
        with pytest.raises(StoreError, match="shard 0 of array resid_pre"):
            read_rows(source, np.arange(4), [0, 1], np.dtype("<f4"))


def test_names_of_shards():
    spec = _spec("none", "float32", 4, 4)
    assert shard_key(spec, 12) == "resid_pre/c.12.0.0.0"
    assert shard_number("c.12.0.0.0") == 12
    for name in ("zarr.json", "c.12.0.0.0.host-1.ab.partial", "c.1.0.1.0", "c", "c.x.0"):
        assert shard_number(name) is None
