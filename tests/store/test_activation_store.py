"""What a store takes is what it gives back: any subset, any order, by any reader."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from stores import (
    IDENTITY,
    LAYOUT,
    RAGGED,
    check,
    data_files,
    expected,
    fill,
    filled,
    hashes,
    make,
    record,
    records,
    rounded,
    values,
)

from refusal_lightning.errors import UserError
from refusal_lightning.store import ActivationStore, Encoding, Layout, PromptRecord, verify

ENCODINGS = [(c, d) for c in ("none", "zstd", "lz4") for d in ("float32", "float16", "bfloat16")]


@pytest.mark.parametrize(("compression", "dtype"), ENCODINGS)
def test_round_trip(compression, dtype, tmp_path):
    layout = Layout(("resid_pre", "mlp_out"), (0, 3), (-3, -1), d_model=6, vocab_size=9, dtype=dtype)
    store = filled(tmp_path / "s", range(30), layout=layout, compression=compression)
    check(store, range(30))
    check(ActivationStore.open(str(tmp_path / "s")), [7, 3, 3, 29, 0])
    assert store.read("resid_pre", dtype=np.float64).dtype == np.float64


def test_layers_and_rows_in_the_order_asked_for(tmp_path):
    store = filled(tmp_path / "s")
    data = store.read("attn_out", store.rows(hashes([9, 2])), layers=[2, 0])
    np.testing.assert_array_equal(data, expected(LAYOUT, "attn_out", [9, 2])[:, [2, 0]])
    assert store.read("attn_out", []).shape == (0, 3, 2, 8)


@settings(max_examples=12)
@given(
    appends=st.lists(st.lists(st.integers(0, 60), max_size=25), min_size=1, max_size=4),
    shard_bytes=st.integers(300, 20_000),
    compression=st.sampled_from(["none", "zstd"]),
    ragged=st.booleans(),
    finish=st.booleans(),
)
def test_any_appends(appends, shard_bytes, compression, ragged, finish):
    """However prompts are added, each is stored once, and rows never move."""
    layout = RAGGED if ragged else LAYOUT
    with tempfile.TemporaryDirectory() as folder:
        url = Path(folder) / "s"
        store = make(url, layout=layout, compression=compression, shard_bytes=shard_bytes)
        known: list[int] = []
        for numbers in appends:
            fresh = [n for n in dict.fromkeys(numbers) if n not in known]
            before = {h: row for h, row in zip(store.prompts.hash, store.prompts.row, strict=True)}
            assert store.add_prompts(records(numbers)) == len(fresh)
            assert set(store.lacking(hashes(numbers))) >= set(hashes(fresh))
            known += fresh
            after = {h: row for h, row in zip(store.prompts.hash, store.prompts.row, strict=True)}
            assert before.items() <= after.items() and set(after) == set(hashes(known))
            if finish:
                fill(store)
        fill(store)
        assert store.pending() == []
        opened = ActivationStore.open(url)
        if known:
            check(opened, known[::-1])
            assert sorted(opened.complete_rows()) == sorted(opened.rows(hashes(known)))
        assert opened.prompts.hashes() == hashes(known)


@given(numbers=st.lists(st.integers(0, 59), min_size=1, max_size=40), layers=st.sets(st.sampled_from([0, 1, 2])))
def test_any_read(numbers, layers, whole_store):
    rows = whole_store.rows(hashes(numbers))
    wanted = sorted(layers, reverse=True)
    data = whole_store.read("resid_pre", rows, layers=wanted)
    np.testing.assert_array_equal(data, expected(LAYOUT, "resid_pre", numbers)[:, wanted])


@pytest.fixture(scope="module")
def whole_store(tmp_path_factory) -> ActivationStore:
    return filled(tmp_path_factory.mktemp("whole") / "s", range(60), compression="none", shard_bytes=3000)


def test_iterating_shards(tmp_path):
    store = filled(tmp_path / "s")
    parts = list(store.iter_shards("resid_pre"))
    assert len(parts) == len(store.shards) > 2
    np.testing.assert_array_equal(np.concatenate([data for _, data in parts]), store.read("resid_pre"))
    chosen = hashes([3, 30, 31, 3])
    parts = list(store.iter_shards("resid_pre", chosen, layers=[1]))
    rows = np.concatenate([rows for rows, _ in parts])
    np.testing.assert_array_equal(rows, np.sort(store.rows(hashes([3, 30, 31]))))
    np.testing.assert_array_equal(np.concatenate([d for _, d in parts]), store.read("resid_pre", rows, [1]))


def test_all_positions(tmp_path):
    store = filled(tmp_path / "s", range(25), layout=RAGGED, longest=7)
    numbers = [20, 4, 11]
    rows = store.rows(hashes(numbers))
    offsets = store.token_offsets(rows)
    data = store.read("resid_pre", rows)
    assert data.shape == (offsets[-1], 2, 4)
    for i, number in enumerate(numbers):
        part = expected(RAGGED, "resid_pre", [number])
        np.testing.assert_array_equal(data[offsets[i] : offsets[i + 1]], part)
        assert len(part) == record(number).n_tokens
    start, count = (int(_zarr(store, name)[rows[0]]) for name in ("token_start", "n_tokens"))
    np.testing.assert_array_equal(_zarr(store, "resid_pre")[start : start + count], data[: offsets[1]])


def test_a_longer_prompt_later(tmp_path):
    """Where the model's context is known, rows are kept free for it: they take no bytes, and zarr reads the prompt."""
    layout = Layout(("resid_pre",), (0, 2), "all", d_model=256)
    with_room = [make(tmp_path / str(c), layout, shard_bytes=100_000, longest=7, context=c) for c in (None, 300)]
    sizes = []
    for store in with_room:
        store.add_prompts(records(range(20)))
        fill(store)
        sizes.append(sum(path.stat().st_size for path in data_files(store)))
    assert sizes[1] - sizes[0] <= sizes[0] / 50
    store = with_room[1]
    longer = PromptRecord(record(50).hash, 300)
    assert (with_room[0].longest_prompt or 0) < 300 <= (store.longest_prompt or 0)
    store.add_prompts([*records([40]), longer, *records([41])])
    assert [shard.n_rows for shard in store.pending()] == [1, 1, 1]
    fill(store)
    whole = values(layout, "resid_pre", longer.hash, 300)
    np.testing.assert_array_equal(store.read("resid_pre", store.rows([longer.hash])), whole)
    start = int(_zarr(store, "token_start")[store.rows([longer.hash])[0]])
    np.testing.assert_array_equal(zarr.open_array(store.url, path="resid_pre", mode="r")[start : start + 300], whole)
    check(ActivationStore.open(store.url), [*range(20), 41, 40])
    assert verify(store.url) == []


def test_a_prompt_too_long_for_a_shard(tmp_path):
    store = make(tmp_path / "s", layout=RAGGED, shard_bytes=1)
    with pytest.raises(UserError, match="has 5000 tokens and a shard of this store holds"):
        store.add_prompts([record(1), type(record(2))(record(2).hash, 5000)])
    assert store.add_prompts(records(range(3))) == 3


@pytest.mark.parametrize(("compression", "dtype"), [("zstd", "bfloat16"), ("none", "float32"), ("lz4", "float16")])
def test_xarray_reads_it(compression, dtype, tmp_path):
    layout = Layout(("resid_pre",), (2, 5), (-2, -1), d_model=4, vocab_size=3, dtype=dtype)
    store = make(tmp_path / "s", layout=layout, compression=compression)
    for numbers in ([1, 2, 3], [4, 5]):
        store.add_prompts(records(numbers))
        fill(store)
    dataset = xr.open_zarr(tmp_path / "s", consolidated=False, chunks=None)
    assert dataset.resid_pre.dims == ("prompt", "layer", "position", "d_model")
    chosen = dataset.resid_pre.sel(prompt=record(4).hash, layer=5, position=-1)
    np.testing.assert_array_equal(chosen, expected(layout, "resid_pre", [4])[0, 1, 1])
    harmful = dataset.resid_pre[(dataset.label == "harmful").values]
    np.testing.assert_array_equal(harmful, expected(layout, "resid_pre", [2, 4]))
    assert list(dataset.token.values) == ["<e>", "\n"]
    assert set(dataset.coords) == {"prompt", "layer", "position", "token", "label", "split", "dataset", "n_tokens"}
    gap = dataset.resid_pre[(dataset.prompt == "").values]
    assert len(gap) == store.manifest["geometry"]["shard_prompts"] - 3 and np.isnan(gap).all()


def test_bfloat16_bits_for_any_reader(tmp_path):
    """Uncompressed, bfloat16 is its bits, and one line of numpy turns them back."""
    layout = Layout(("resid_pre",), (0,), (-1,), d_model=4, dtype="bfloat16")
    bits = _zarr(filled(tmp_path / "s", range(5), layout=layout, compression="none"), "resid_pre")
    assert bits.dtype == np.uint16
    values = (bits.astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(values, expected(layout, "resid_pre", range(5)))


def _zarr(store: ActivationStore, name: str) -> np.ndarray:
    return np.asarray(zarr.open_array(store.url, path=name, mode="r")[...])


def test_special_values(tmp_path):
    layout = Layout(("resid_pre",), (0,), (-1,), d_model=6, dtype="bfloat16")
    special = np.array([np.nan, np.inf, -np.inf, -0.0, 1e-40, 3.38e38], dtype=np.float32)
    for compression in ("none", "zstd"):
        store = make(tmp_path / compression, layout=layout, compression=compression)
        store.add_prompts(records([1]))
        store.write_shard(0, {"resid_pre": rounded(special, "bfloat16").reshape(1, 1, 1, 6)})
        read = store.read("resid_pre").reshape(-1)
        np.testing.assert_array_equal(read, rounded(special, "bfloat16"))
        assert np.signbit(read[3])


def test_opening_with_anything_else_is_refused(tmp_path):
    url = tmp_path / "s"
    filled(url)
    other = {"model": "other", "revision": "1", "template": {"name": "none", "tokens": [1, 3]}, "dtype": "float16"}
    layout = Layout(("resid_pre", "attn_out"), (0, 1), (-2, -1), d_model=8, vocab_size=11)
    with pytest.raises(UserError) as caught:
        ActivationStore.create_or_open(url, other, layout)
    message = str(caught.value)
    assert 'model: "made-up" in the store, "other" here' in message
    assert "template.tokens: [1, 2] in the store, [1, 3] here" in message
    assert 'dtype: absent in the store, "float16" here' in message
    assert "layout.layers: [0, 1, 2] in the store, [0, 1] here" in message
    assert "revision" not in message and "\n" not in message
    check(make(url, compression="none"), range(40))  # how it is encoded is no part of its identity


def test_identity_may_hold_tuples(tmp_path):
    for _ in range(2):
        store = ActivationStore.create_or_open(tmp_path / "s", {"ids": (1, 2)}, LAYOUT)
    assert store.identity == {"ids": [1, 2]}


def test_lacking_prompts_are_counted(tmp_path):
    store = filled(tmp_path / "s", range(10))
    with pytest.raises(UserError, match="2 of 5 prompts are not"):
        store.rows(hashes([1, 2, 3, 100, 101, 1]))
    store.add_prompts(records([100]))
    assert store.lacking(hashes([1, 100, 101])) == hashes([100, 101])
    assert not store.complete(hashes([100])) and store.complete(hashes([1]))
    assert [shard.hashes for shard in store.pending()] == [tuple(hashes([100]))]
    assert store.pending(hashes([1])) == []


def test_a_shard_is_never_rewritten(tmp_path):
    store = filled(tmp_path / "s", range(4))
    store.write_shard(0, {name: array * 0 for name, array in _shard(store).items()})
    check(store, range(4))


def _shard(store: ActivationStore) -> dict[str, np.ndarray]:
    count = store.shard(0).n_rows
    return {name: expected(LAYOUT, name, range(count)) for name in LAYOUT.array_names}


def test_wrong_arrays_are_refused(tmp_path):
    store = make(tmp_path / "s")
    store.add_prompts(records(range(4)))
    good = {name: expected(LAYOUT, name, range(4)) for name in LAYOUT.array_names}
    for wrong, match in (
        ({**good, "resid_pre": good["resid_pre"][:2]}, "resid_pre: shape"),
        ({**good, "resid_pre": good["resid_pre"].astype(int)}, "resid_pre: dtype"),
        ({"resid_pre": good["resid_pre"]}, "belong"),
    ):
        with pytest.raises(ValueError, match=match):
            store.write_shard(0, wrong)
    assert len(store.pending()) == 1
    with pytest.raises(UserError, match="holds no 'resid_post'; there are resid_pre"):
        store.read("resid_post")
    with pytest.raises(UserError, match=r"holds no layers \[7\]"):
        store.read("resid_pre", layers=[7])


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"hook_points": ("resid",)}, "unknown"),
        ({"layers": (1, 0)}, "not ascending"),
        ({"positions": (0,)}, "not negative"),
        ({"positions": "most"}, "'all'"),
        ({"d_model": 0}, "d_model"),
        ({"dtype": "int8"}, "float16"),
    ],
)
def test_layouts_that_make_no_store(fields, match):
    good = {"hook_points": ("resid_pre",), "layers": (0,), "positions": (-1,), "d_model": 4}
    with pytest.raises(UserError, match=match):
        Layout(**{**good, **fields})
    with pytest.raises(UserError, match="none, zstd, lz4"):
        Encoding("gzip")  # type: ignore[arg-type]


def test_identity_is_in_the_manifest(tmp_path):
    store = filled(tmp_path / "s")
    assert store.identity == IDENTITY
    assert store.manifest["format"] == 2
    assert zarr.open_group(tmp_path / "s", mode="r").attrs["activation_store"] == store.manifest


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_lazy_slices_are_numpy_s(data, whole_store):
    whole = whole_store.read("resid_pre")
    lazy = whole_store["resid_pre"]
    assert lazy.shape == whole.shape and lazy.dims == ("prompt", "layer", "position", "d_model")
    index: list[Any] = []
    for size in whole.shape[: data.draw(st.integers(1, whole.ndim))]:
        index.append(data.draw(st.one_of(st.integers(-size, size - 1), st.slices(size))))
    if data.draw(st.booleans()):
        index.insert(data.draw(st.integers(0, len(index))), Ellipsis)
        index = index[: whole.ndim + 1] if len(index) - 1 <= whole.ndim else index
    assert np.array_equal(lazy[tuple(index)], whole[tuple(index)])
    places = data.draw(st.lists(st.integers(0, len(whole) - 1)))
    assert np.array_equal(lazy[places, 1], whole[places, 1])


def test_lazy_slices_of_logits_and_mistakes(tmp_path):
    store = filled(tmp_path / "s", range(7))
    assert np.array_equal(store["next_token_logits"][2:5, 3], store.read("next_token_logits")[2:5, 3])
    assert repr(store["resid_pre"]) == "LazyArray(prompt: 7, layer: 3, position: 2, d_model: 8)"
    with pytest.raises(IndexError):
        store["resid_pre"][7]
    with pytest.raises(IndexError, match="5 indices"):
        store["resid_pre"][0, 0, 0, 0, 0]
    with pytest.raises(UserError, match="use read"):
        filled(tmp_path / "ragged", range(7), layout=RAGGED)["resid_pre"]


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_some_positions(compression, tmp_path):
    """Positions from the end are the same numbers whether positions or all tokens are stored."""
    numbers = [n for n in range(40) if record(n).n_tokens >= 2]
    store = filled(tmp_path / "s", numbers, layout=RAGGED, compression=compression)
    rows = store.rows(hashes(numbers))
    got = store.read("resid_pre", rows, positions=[-2, -1])
    for n, row in zip(numbers, got, strict=True):
        whole = values(RAGGED, "resid_pre", record(n).hash, record(n).n_tokens)
        assert np.array_equal(row, whole[-2:].swapaxes(0, 1))
    mean = store.mean("resid_pre", hashes(numbers), positions=[-2, -1])
    np.testing.assert_allclose(mean, got.mean(0, dtype=np.float64), rtol=1e-12)
    last = store.mean("resid_pre", hashes(numbers), layers=[2], positions=[-1])
    np.testing.assert_allclose(last, mean[1:, 1:], rtol=1e-12)
    with pytest.raises(UserError, match="the shortest of the prompts"):
        store.read("resid_pre", rows, positions=[-3])
    fixed = filled(tmp_path / "fixed", numbers, compression=compression)
    assert np.array_equal(fixed.read("resid_pre", positions=[-1]), fixed.read("resid_pre")[:, :, 1:])
    assert np.array_equal(
        fixed.mean("attn_out", hashes(numbers), positions=[-1, -2])[:, 0], fixed.mean("attn_out", hashes(numbers))[:, 1]
    )
    with pytest.raises(UserError, match=r"no positions \[-9\]"):
        fixed.read("resid_pre", positions=[-9])
    with pytest.raises(UserError, match="has no positions"):
        fixed.read("next_token_logits", positions=[-1])


def test_what_made_it_is_noted_and_never_compared(tmp_path):
    store = make(tmp_path / "s")
    store.add_prompts(records(range(3)), {"packages": {"torch": "1"}})
    store.add_prompts(records(range(6)), {"packages": {"torch": "2"}})
    again = make(tmp_path / "s")
    assert [s["made_with"]["packages"]["torch"] for s in again.manifest["segments"]] == ["1", "2"]
