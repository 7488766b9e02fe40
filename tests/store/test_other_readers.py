"""Every kind of store, read by others: zarr-python, zarr-python with zarrs, tensorstore; all values, and selections."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import zarr
from stores import LAYOUT, RAGGED, filled, hashes, records

from refusal_lightning.store import ActivationStore
from refusal_lightning.store.format.layout import LOGITS

OpenArray = Callable[[str, str], Any]
DTYPES, COMPRESSIONS = ("float32", "float16", "bfloat16"), ("none", "lz4", "zstd")
READERS = ("zarr", "zarrs", "tensorstore")
LAYOUTS = {"positions": LAYOUT, "all": RAGGED, "layers": replace(LAYOUT, layers=(3, 7, 20), vocab_size=None)}


@contextmanager
def _reader(name: str) -> Iterator[OpenArray]:
    """How an array at (store, name) is opened; skips where the package is not installed."""
    if name == "tensorstore":
        tensorstore = pytest.importorskip("tensorstore", reason="needs tensorstore (extra dev)")
        yield lambda url, array: tensorstore.open(
            {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{url}/{array}"}}, open=True, read=True
        ).result()
        return
    options = {}
    if name == "zarrs":
        pytest.importorskip("zarrs", reason="needs zarrs (extra dev)")
        options = {"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}
    with zarr.config.set(options):
        yield lambda url, array: zarr.open_array(url, path=array, mode="r")


def _values(read: Any) -> np.ndarray:
    """What a reader gives, as numpy's; stored bits of bfloat16 as float32."""
    found = np.asarray(read.read().result() if hasattr(read, "read") else read)
    return (found.astype("<u4") << 16).view("<f4") if found.dtype == np.uint16 else found


@pytest.fixture(scope="module", params=itertools.product(LAYOUTS, DTYPES, COMPRESSIONS), ids="-".join)
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ActivationStore:
    """A store of 25 prompts, and of 8 that are planned and not there: others read fill values."""
    kind, dtype, compression = request.param
    layout = replace(LAYOUTS[kind], dtype=dtype)
    made = filled(tmp_path_factory.mktemp("s") / "s", range(25), layout=layout, compression=compression)
    made.add_prompts(records(range(25, 33)))
    return made


@pytest.mark.parametrize("reader", READERS)
def test_others_read_the_same(reader: str, store: ActivationStore) -> None:
    layout = store.layout
    assert len(store.shards) > 1
    rows = ActivationStore.open(store.url).rows(hashes(range(25)))
    with _reader(reader) as open_array:
        for name in layout.array_names:
            array, ours = open_array(store.url, name), store.read(name, rows)
            theirs = _values(array[...])
            if layout.ragged and name != LOGITS:
                tokens = np.concatenate([np.arange(*span) for span in _spans(store, rows)])
                np.testing.assert_array_equal(theirs[tokens], ours)
                np.testing.assert_array_equal(_values(array[:, 1])[tokens], ours[:, 1])
            else:
                np.testing.assert_array_equal(theirs[rows], ours)
                np.testing.assert_array_equal(_values(array[3:11, 1]), theirs[3:11, 1])
                assert np.isnan(theirs[-1]).all()


def _spans(store: ActivationStore, rows: np.ndarray) -> list[tuple[int, int]]:
    """Where each prompt's tokens are, from the coordinates that any reader has."""
    columns = [zarr.open_array(store.url, path=name, mode="r")[...] for name in ("token_start", "n_tokens")]
    starts, counts = (np.asarray(column) for column in columns)
    return [(int(starts[row]), int(starts[row] + counts[row])) for row in rows.tolist()]
