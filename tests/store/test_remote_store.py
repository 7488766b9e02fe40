"""The same store at URLs: fsspec's memory file system, and S3 as moto's server on loopback speaks it."""

from __future__ import annotations

import uuid
from typing import Any

import numpy as np
import pytest
from stores import LAYOUT, RAGGED, check, fill, hashes, make, record, records

from refusal_lightning.errors import UserError
from refusal_lightning.store import ActivationStore, StoreError, export, info, repair, verify
from refusal_lightning.store.backend.open import open_backend


@pytest.fixture(params=["memory", "s3"])
def place(request) -> dict[str, Any]:
    """Arguments that name a fresh remote store."""
    name = uuid.uuid4().hex
    if request.param == "memory":
        return {"url": f"memory://{name}/s.zarr"}
    return {"url": f"s3://bucket/{name}/s.zarr", "storage_options": request.getfixturevalue("s3")}


def test_the_whole_life_of_a_store(place, tmp_path):
    layout = LAYOUT if "storage_options" in place else RAGGED
    assert not ActivationStore.exists(**place)
    store = make(**place, layout=layout, compression="none", shard_bytes=4000)
    assert store.add_prompts(records(range(20))) == 20
    fill(store)
    assert store.add_prompts(records(range(15, 25))) == 5
    other = ActivationStore.open(**place)
    fill(other)
    check(other, range(24, -1, -1))
    assert store.complete(hashes(range(25)))
    np.testing.assert_allclose(
        store.mean("resid_pre", hashes(range(25)), layers=[2])[0],
        store.read("resid_pre", layers=[2])[:, 0].mean(axis=0),
        rtol=1e-4,
        atol=1e-4,
    )
    store.save_result("r", {"x": np.array([np.nan, 1.0])}, {"a": 1})
    store.save_result("r", {"x": np.array([np.nan, 2.0])}, {"a": 2})
    assert (other.load_result("r") or ({}, {}))[1] == {"a": 2} and other.results() == ["r"]
    assert info(**place)["prompts"] == {"planned": 25, "complete": 25}
    assert verify(**place) == []
    export(place["url"], tmp_path / "x.npz", "npz", storage_options=place.get("storage_options"))
    assert np.load(tmp_path / "x.npz")["resid_pre"].shape == store.read("resid_pre").shape
    with pytest.raises(UserError, match=r"layout\.layers"):
        make(**place, layout=type(layout)(**{**layout.to_json(), "layers": (0, 1)}))


def test_damage(place):
    store = make(**place, shard_bytes=4000)
    store.add_prompts(records(range(20)))
    fill(store)
    backend = open_backend(**place)
    data = bytearray(backend.read("resid_pre/c.1.0.0.0") or b"")
    data[10] ^= 1
    backend.write("resid_pre/c.1.0.0.0", [[bytes(data)]])
    with pytest.raises(StoreError, match=r"shard 1 of array resid_pre.*damaged"):
        store.read("resid_pre")
    (problem,) = verify(**place)
    assert problem.shard == 1
    repair(**place)
    again = ActivationStore.open(**place)
    assert [shard.index for shard in again.pending()] == [1]
    fill(again)
    check(again, range(20))


def test_zarr_reads_s3(s3):
    import zarr

    url = f"s3://bucket/{uuid.uuid4().hex}"
    store = make(url, storage_options=s3)
    store.add_prompts(records(range(5)))
    fill(store)
    array = zarr.open_group(url, mode="r", storage_options=s3)["resid_pre"]
    np.testing.assert_array_equal(np.asarray(array[:5]), store.read("resid_pre"))  # type: ignore[index]


def test_one_entry_of_the_log_at_a_time(place):
    """Of two planners that both know one state, one plans and the other plans behind it."""
    make(**place)
    one, other = (ActivationStore.open(**place) for _ in range(2))
    assert one.add_prompts([record(1)]) == 1
    state = other._state
    refresh, state.refresh = state.refresh, lambda: setattr(state, "refresh", refresh)  # type: ignore[method-assign]
    assert other.add_prompts([record(2)]) == 1
    fill(other)
    check(ActivationStore.open(**place), [1, 2])
    assert not open_backend(**place).create("prompt/plan/000002.json.zst", b"{}")


def test_no_such_bucket(s3):
    with pytest.raises((UserError, StoreError)) as caught:
        make(f"s3://nowhere-{uuid.uuid4().hex}/x", storage_options=s3)
    assert "\n" not in str(caught.value)
