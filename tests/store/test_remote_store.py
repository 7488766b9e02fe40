"""The same store at URLs: in memory, and in S3 as moto's server on loopback speaks it."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from s3_proxy import s3_proxy
from stores import LAYOUT, RAGGED, check, fill, hashes, make, record, records

from refusal_lightning.errors import UserError
from refusal_lightning.store import ActivationStore, StoreError, export, info, repair, verify
from refusal_lightning.store.backend import remote
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
    from obstore.store import S3Store
    from zarr.storage import ObjectStore

    name = uuid.uuid4().hex
    store = make(f"s3://bucket/{name}", storage_options=s3)
    store.add_prompts(records(range(5)))
    fill(store)
    bucket = S3Store(
        "bucket",
        prefix=name,
        config={"access_key_id": "test", "secret_access_key": "test", "endpoint": _endpoint(s3), "region": "us-east-1"},
        client_options={"allow_http": True},
    )
    array = zarr.open_group(ObjectStore(bucket, read_only=True), mode="r")["resid_pre"]
    np.testing.assert_array_equal(np.asarray(array[:5]), store.read("resid_pre"))  # type: ignore[index]


@pytest.mark.parametrize(
    "names",
    [
        {"access_key_id": "test", "secret_access_key": "test", "endpoint": "URL", "region": "us-east-1"},
        {"key": "test", "secret": "test", "endpoint_url": "URL", "client_kwargs": {"region_name": "us-east-1"}},
        {"client_kwargs": {"aws_access_key_id": "test", "aws_secret_access_key": "test", "endpoint_url": "URL"}},
    ],
)
def test_names_of_options(names, s3):
    """obstore's, and those of s3fs that configurations had before."""
    options = json.loads(json.dumps(names).replace("URL", _endpoint(s3)))
    backend = open_backend("s3://bucket/options", options)
    backend.write("k", [[b"value"]])
    assert backend.read("k") == b"value"


def test_credentials_and_endpoint_from_the_environment(s3, monkeypatch):
    for name, value in {"ACCESS_KEY_ID": "test", "SECRET_ACCESS_KEY": "test", "ENDPOINT_URL": _endpoint(s3)}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    backend = open_backend("s3://bucket/environment")
    backend.write("k", [[b"value"]])
    assert backend.read("k") == b"value"


def test_credentials_from_a_profile(s3, monkeypatch, tmp_path):
    """obstore does not read the files of the AWS tools: boto3 does."""
    (tmp_path / "credentials").write_text("[mine]\naws_access_key_id = test\naws_secret_access_key = test\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    options = {"endpoint_url": _endpoint(s3)}
    backend = open_backend("s3://bucket/profile", {**options, "profile": "mine"})
    backend.write("k", [[b"value"]])
    assert backend.read("k") == b"value"
    with pytest.raises(UserError, match=r"profile \(other\) could not be found.*AWS_ACCESS_KEY_ID"):
        open_backend("s3://bucket/profile", {**options, "profile": "other"})
    with pytest.raises(UserError, match=r"no credentials were found.*AWS_ACCESS_KEY_ID"):
        open_backend("s3://bucket/profile", options)


@pytest.mark.parametrize(
    ("url", "options", "named"),
    [
        ("sftp://host/x", {}, r"sftp://.*mount it.*known are s3"),
        ("s3://bucket/x", {"key": "a", "secret": "b", "use_ssl": False}, "use_ssl"),
        ("az://container/x", {}, "Account must be specified"),
    ],
)
def test_what_cannot_be_opened(url, options, named):
    with pytest.raises(UserError, match=named) as caught:
        open_backend(url, options)
    assert "\n" not in str(caught.value)


def test_large_objects_go_up_in_parts(s3, monkeypatch):
    """Also while they are made; where that fails there is no object, and the error is the maker's."""
    monkeypatch.setattr(remote, "PART_BYTES", 5 << 20)
    monkeypatch.setattr(remote, "WHOLE_BYTES", 5 << 20)
    backend = open_backend(f"s3://bucket/{uuid.uuid4().hex}", s3)
    data = np.random.default_rng(0).integers(0, 256, 12 << 20, dtype=np.uint8)

    def made(last: int) -> Iterator[list[Any]]:
        for start in range(0, len(data), 1 << 20):
            if start == last:
                raise ValueError("not a float16 value")
            yield [data[start : start + (1 << 20)], b"tail"]

    with pytest.raises(ValueError, match="not a float16"):
        backend.write("large", made(11 << 20))
    assert backend.size("large") is None
    backend.write("large", made(-1))
    whole = b"".join(bytes(part) for parts in made(-1) for part in parts)
    assert backend.read("large") == whole
    ranges = [(5, 9), (1 << 20, 3 << 20), (9 << 20, (9 << 20) + 1)]
    backend.write("empty", [[b""]])
    with backend.open("empty") as reader:
        assert reader.size == 0
    with backend.open("large") as reader:
        assert reader.size == len(whole)
        reader.prefetch(ranges)
        for start, stop in [*ranges, (len(whole) - 7, len(whole)), (4 << 20, 5 << 20), ((2 << 20) - 1, (2 << 20) + 1)]:
            assert bytes(reader.read(start, stop, bytearray())) == whole[start:stop]


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
    with pytest.raises(UserError, match="does the bucket exist") as caught:
        make(f"s3://nowhere-{uuid.uuid4().hex}/x", storage_options=s3)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "error", "named"),
    [
        ((403, "AccessDenied"), UserError, "access denied.*AccessDenied.*credentials"),
        ((400, "Strange"), StoreError, "request for 'k' failed.*Strange"),
    ],
)
def test_what_an_endpoint_says_is_passed_on(answer, error, named, s3):
    with s3_proxy(_endpoint(s3), lambda method, headers: answer) as url:
        backend = open_backend("s3://bucket/x", {"key": "test", "secret": "test", "endpoint_url": url})
        for request in (lambda: backend.read("k"), lambda: backend.write("k", [[b"1"]]), lambda: backend.open("k")):
            with pytest.raises(error, match=named) as caught:
                request()
            assert "\n" not in str(caught.value)


def _endpoint(s3: dict[str, Any]) -> str:
    return s3["client_kwargs"]["endpoint_url"]
