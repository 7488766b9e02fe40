"""info, verify and repair: what is damaged is found and named, and only that is computed again."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stores import LAYOUT, RAGGED, check, data_files, expected, fill, filled, hashes, make, records

from refusal_lightning.errors import UserError
from refusal_lightning.store import ActivationStore, StoreError, info, integrity, repair, verify
from refusal_lightning.store.backend import owner
from refusal_lightning.store.format import log, row_files


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    """A store of two appends with a result, only to be copied."""
    url = tmp_path_factory.mktemp("good") / "s"
    store = filled(url, range(30), compression="none", shard_bytes=3000)
    store.add_prompts(records(range(25, 45)))
    fill(store)
    store.save_result("scores", {"kl": np.array([[0.5, np.nan]])}, {"version": 1})
    return url


@pytest.fixture
def store(good, tmp_path) -> ActivationStore:
    return ActivationStore.open(shutil.copytree(good, tmp_path / "s"))


def _flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 0x40
    path.write_bytes(data)


def _harm(path: Path, damage: str) -> None:
    """Flip a byte, lose the file (zarr would read fill values), or lose its content."""
    match damage:
        case "flipped":
            _flip(path, min(30, path.stat().st_size // 2))
        case "missing":
            path.unlink()
        case "empty":
            path.write_bytes(b"")


@pytest.mark.parametrize("options", [{}, {"compression": "lz4"}, {"layout": RAGGED}])
def test_a_good_store_has_no_problems(options, tmp_path):
    filled(tmp_path / "s", range(30), **options)
    seen: list[tuple[int, int]] = []
    assert verify(tmp_path / "s", progress=lambda done, of: seen.append((done, of))) == []
    assert seen[-1][0] == seen[-1][1] == len(seen) > 0


@pytest.mark.parametrize("where", [0, 0.3, 0.6, 0.9, -1])
def test_a_flipped_byte(where, store):
    path = data_files(store, "attn_out")[2]
    _flip(path, int(where * path.stat().st_size) if where >= 0 else -1)
    (problem,) = verify(store.url)
    assert (problem.array, problem.shard, problem.missing) == ("attn_out", 2, False)
    assert "shard 2 of array attn_out" in problem.what and "\n" not in problem.what
    with pytest.raises(StoreError, match=r"shard 2 of array attn_out.*damaged"):
        store.read("attn_out")
    with pytest.raises(StoreError, match=r"shard 2 of array attn_out.*damaged"):
        store.mean("attn_out", hashes(range(45)))
    np.testing.assert_array_equal(store.read("resid_pre").shape, (45, 3, 2, 8))
    assert repair(store.url) == [problem]
    assert [shard.index for shard in store_again(store).pending()] == [2]
    _recompute(store)


def test_only_the_damaged_chunk_cannot_be_read(tmp_path):
    store = filled(tmp_path / "s", range(8), compression="none")
    path = data_files(store)[0]
    _flip(path, path.stat().st_size // 3 + 100)
    np.testing.assert_array_equal(store.read("resid_pre", layers=[0]), expected(LAYOUT, "resid_pre", range(8))[:, :1])
    with pytest.raises(StoreError, match="layer number 1"):
        store.read("resid_pre", layers=[1])


@pytest.mark.parametrize("cut", [1, 100, 10_000])
def test_a_truncated_file(cut, store):
    path = data_files(store)[1]
    path.write_bytes(path.read_bytes()[:-cut] or b"x")
    (problem,) = verify(store.url)
    assert (problem.array, problem.shard) == ("resid_pre", 1)
    with pytest.raises(StoreError, match="shard 1 of array resid_pre"):
        store.read("resid_pre")
    repair(store.url)
    _recompute(store)


def test_a_missing_file(store):
    data_files(store)[1].unlink()
    (problem,) = verify(store.url)
    assert (problem.array, problem.shard, problem.missing) == ("resid_pre", 1, True)
    again = store_again(store)
    lost = list(again.shard(1).hashes)
    with pytest.raises(UserError, match=f"{len(lost)} of 45 prompts are not"):
        again.rows(hashes(range(45)))
    with pytest.raises(StoreError, match="is missing"):
        store.read("resid_pre", again.prompts.row)
    assert repair(store.url) == []
    _recompute(store)


def test_an_empty_file(store):
    """What a power loss can leave: an empty shard would read as fill values; here it counts as absent."""
    path = data_files(store)[1]
    path.write_bytes(b"")
    assert [shard.index for shard in store_again(store).pending()] == [1]
    with pytest.raises(StoreError, match="truncated to 0 bytes"):
        store.read("resid_pre", store.prompts.row)
    _recompute(store)


def test_a_manifest_edited_by_hand(store):
    path = Path(store.url, "zarr.json")
    node = json.loads(path.read_text())
    node["attributes"]["activation_store"]["identity"]["model"] = "better"
    path.write_text(json.dumps(node))
    assert ActivationStore.open(store.url).identity["model"] == "made-up"  # the log says so
    (problem,) = verify(store.url)
    assert problem.key == "zarr.json"
    repair(store.url)
    assert verify(store.url) == []
    check(ActivationStore.open(store.url), range(45))


@pytest.mark.parametrize("content", [None, b"", b"{", b'{"node_type": "group"}'])
def test_a_lost_manifest(content, store):
    path = Path(store.url, "zarr.json")
    path.unlink() if content is None else path.write_bytes(content)
    check(ActivationStore.open(store.url), range(45))
    assert [problem.key for problem in verify(store.url)] == ["zarr.json"]
    repair(store.url)
    assert verify(store.url) == []


@pytest.mark.parametrize("name", ["prompt", "label", "n_tokens", "position", "token"])
@pytest.mark.parametrize("file", ["c.0", "zarr.json"])
@pytest.mark.parametrize("damage", ["flipped", "missing", "empty"])
def test_damaged_coordinates(name, file, damage, store):
    path = Path(store.url, name, file)
    _harm(path, damage)
    assert [problem.key for problem in verify(store.url) if problem.shard is None]
    check(ActivationStore.open(store.url), range(45))
    repair(store.url)
    assert verify(store.url) == []
    again = ActivationStore.open(store.url)
    check(again, range(45))
    assert again.prompts.hashes(label="harmful") == hashes(range(0, 45, 2))


def test_wrong_metadata_of_an_array(store):
    path = Path(store.url, "resid_pre", "zarr.json")
    path.write_text(path.read_text().replace("45", "44").replace("layer", "head"))
    (problem,) = verify(store.url)
    assert problem.key == "resid_pre/zarr.json"
    repair(store.url)
    assert verify(store.url) == []


@pytest.mark.parametrize("damage", ["flipped", "missing", "empty"])
def test_a_damaged_result(damage, store):
    (path,) = Path(store.url, "results", "scores").glob("*/kl/c.*")
    _harm(path, damage)
    with pytest.raises(StoreError, match="result scores is damaged"):
        store.load_result("scores")
    (problem,) = verify(store.url)
    assert problem.key == "results/scores"
    repair(store.url)
    assert store.load_result("scores") is None and verify(store.url) == []


def test_a_shard_of_no_plan(store):
    paths = data_files(store)
    shutil.copy(paths[-1], paths[-1].with_name("c.99.0.0.0"))
    (problem,) = verify(store.url)
    assert problem.shard == 99
    repair(store.url)
    assert verify(store.url) == []


def test_what_killed_writers_leave_is_swept(store):
    """Wherever it is, if its process has ended, which only the same boot and PID namespace can tell; or by age."""
    mine = owner.partial_name("c.0", "ab12")
    pid, start = os.getpid(), owner._start_of(os.getpid())
    left = {
        "resid_pre/" + mine.replace(f"-{pid}-", "-999999999-"): False,
        "results/scores/" + mine.replace(f"-{start}.", "-1."): False,  # another process had this number before
        "layer/" + mine: True,
        "prompt/plan/" + mine.replace(owner._boot(), "0" * 12).replace(f"-{pid}-", "-999999999-"): True,
        "token/" + mine.replace(owner._namespace(), "1").replace(f"-{pid}-", "-999999999-"): True,
        "attn_out/c.3.0.0.0.otherhost-12.abc.partial": True,
        "attn_out/c.4.0.0.0.otherhost-12.abd.partial": False,
    }
    for name in left:
        Path(store.url, name).write_bytes(b"half")
    os.utime(Path(store.url, "attn_out/c.4.0.0.0.otherhost-12.abd.partial"), (time.time() - 86400,) * 2)
    assert verify(store.url) == []
    store.add_prompts([])
    assert {name: Path(store.url, name).exists() for name in left} == left


def test_info(store):
    store.add_prompts(records([100]))
    told = info(store.url)
    json.dumps(told)
    assert told["prompts"] == {"planned": 46, "complete": 45}
    assert told["shards"]["planned"] == told["shards"]["complete"] + 1
    harmful = next(row for row in told["contents"] if row["label"] == "harmful")
    assert (harmful["planned"], harmful["complete"]) == (24, 23)
    assert told["bytes"] == sum(p.stat().st_size for n in LAYOUT.array_names for p in data_files(store, n))
    assert told["results"] == ["scores"] and told["identity"]["model"] == "made-up"


def test_care_of_no_store(tmp_path):
    for command in (info, verify, repair):
        with pytest.raises(UserError):
            command(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_newer_format(store):
    data, _ = log._encoded({"head": {**ActivationStore.open(store.url)._state.manifest.head, "format": 3}})
    Path(store.url, log.key(0)).write_bytes(data)
    for open_it in (ActivationStore.open, verify, repair):
        with pytest.raises(UserError, match=r"format version 3.*update refusal_lightning"):
            open_it(store.url)


def store_again(store: ActivationStore) -> ActivationStore:
    return ActivationStore.open(store.url)


def _recompute(store: ActivationStore) -> None:
    """Continue as `cache` does, and find the store whole."""
    again = make(store.url)
    fill(again)
    assert verify(store.url) == []
    check(again, range(45))


@pytest.mark.parametrize("what", ["shard", "result"])
def test_what_a_job_puts_right_while_repair_looks(what, store, monkeypatch):
    """To look at all takes long: what is right again by then is not dropped."""
    url = Path(store.url)
    if what == "shard":
        shutil.copy(data_files(store)[0], data_files(store)[1])  # of other prompts: `cache` replaces it
    else:
        (url / "results" / "scores" / "zarr.json").rename(url / "aside")  # as while it is being saved
    look = integrity._data_problems

    def meanwhile(*args: Any) -> Any:
        monkeypatch.undo()
        found = look(*args)
        if what == "shard":
            fill(make(url))
        else:
            (url / "aside").rename(url / "results" / "scores" / "zarr.json")
        return found

    monkeypatch.setattr(integrity, "_data_problems", meanwhile)
    repair(url)
    assert verify(url) == []
    check(ActivationStore.open(url), range(45))
    assert store.load_result("scores") is not None


def test_another_plans_while_repair_writes(store, monkeypatch):
    """What zarr readers see is of the newest plan in the end."""
    Path(store.url, "label", "c.0").unlink()
    write = row_files.write

    def meanwhile(*args: Any) -> None:
        monkeypatch.undo()
        make(store.url).add_prompts(records(range(50)))
        write(*args)

    monkeypatch.setattr(row_files, "write", meanwhile)
    repair(store.url)
    assert [problem.what for problem in verify(store.url) if not problem.missing] == []
