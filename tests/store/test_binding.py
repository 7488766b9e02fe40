"""A shard says which prompts of which store it is of: what was left by others is never served, and is replaced."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr
from stores import IDENTITY, LAYOUT, RAGGED, check, data_files, fill, filled, hashes, make, records

from refusal_lightning.errors import UserError
from refusal_lightning.store import ActivationStore, Encoding, StoreError, repair, verify

OTHER = {**IDENTITY, "model": "another"}


def _other(url: Path) -> ActivationStore:
    """A store of another model, of the same layout, with nothing in it."""
    return ActivationStore.create_or_open(url, OTHER, LAYOUT, Encoding("zstd", 5000), position_tokens=["<e>", "\n"])


def _lose(url: Path, *names: str) -> None:
    for name in names:
        path = url / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def test_what_another_model_left(tmp_path):
    """The store's own words are lost, its shards are not: a new store in their place serves none of them."""
    url = tmp_path / "s"
    filled(url, range(20))
    _lose(url, "zarr.json", "prompt")
    store = _other(url)
    store.add_prompts(records(range(20)))
    assert store.lacking(hashes(range(20))) == hashes(range(20))
    assert len(store.pending()) == len(store.shards)
    fill(store)
    check(store, range(20))
    assert verify(url) == []


def test_a_lost_manifest_does_not_make_room_for_another_model(tmp_path):
    url = tmp_path / "s"
    filled(url, range(20))
    _lose(url, "zarr.json")
    with pytest.raises(UserError, match='model: "made-up" in the store, "another" here'):
        _other(url)
    assert make(url).pending() == []


def test_what_another_plan_left(tmp_path):
    """Prompts are un-planned (their log entry is lost with all that follows from it), and others take their rows."""
    url = tmp_path / "s"
    store = filled(url, range(10))
    store.add_prompts(records(range(10, 30)))
    fill(store)
    first = filled(tmp_path / "first", range(10))
    for name in ("prompt", "n_tokens", "label", "split", "dataset", "zarr.json"):
        _lose(url, name)
        copy = Path(first.url, name)
        shutil.copytree(copy, url / name) if copy.is_dir() else shutil.copy(copy, url / name)
    again = make(url)
    again.add_prompts(records(range(40, 60)))
    assert again.lacking(hashes(range(40, 60))) == hashes(range(40, 60))
    left = np.asarray(zarr.open_array(url, path="resid_pre", mode="r")[again.prompts.row[10:]])
    assert np.isnan(left).all()  # not for zarr readers either, who look at no binding
    fill(again)
    check(again, [*range(10), *range(40, 60)])
    repair(url)
    assert verify(url) == []


@pytest.mark.parametrize("which", ["of another model", "of other prompts", "of another place", "of another array"])
def test_a_shard_that_comes_later(which, tmp_path):
    """As copies bring them: it is named, not served, and the next `cache` puts the right one in its place."""
    store = filled(tmp_path / "s", range(40))
    rows = store.rows(hashes(range(40)))
    path = data_files(store)[1]
    theirs = {
        "of another model": lambda: _filled_other(tmp_path / "other"),
        "of other prompts": lambda: filled(tmp_path / "other", range(100, 140)),
    }
    match which:
        case "of another place":
            shutil.copy(data_files(store)[0], path)
        case "of another array":
            shutil.copy(data_files(store, "attn_out")[1], path)
        case _:
            shutil.copy(data_files(theirs[which]())[1], path)
    for read in (lambda: store.read("resid_pre", rows), lambda: store.mean("resid_pre", hashes(range(40)))):
        with pytest.raises(StoreError, match=r"shard 1 of array resid_pre.* is not of the prompts that are planned"):
            read()
    (problem,) = verify(store.url)
    assert (problem.array, problem.shard, problem.missing) == ("resid_pre", 1, False)
    again = make(store.url)
    assert [shard.index for shard in again.pending()] == [1]
    assert set(again.lacking(hashes(range(40)))) == set(again.shard(1).hashes)
    fill(again)
    check(store, range(40))
    assert verify(store.url) == []


def _filled_other(url: Path) -> ActivationStore:
    store = _other(url)
    store.add_prompts(records(range(40)))
    fill(store)
    return store


@pytest.mark.parametrize("layout", [LAYOUT, RAGGED])
def test_the_same_prompts_bind_to_the_same_bytes(layout, tmp_path):
    one, other = (filled(tmp_path / name, range(20), layout=layout) for name in ("one", "other"))
    for name in layout.array_names:
        for a, b in zip(data_files(one, name), data_files(other, name), strict=True):
            assert a.read_bytes() == b.read_bytes()
