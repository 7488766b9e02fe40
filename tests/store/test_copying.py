"""`store copy`: a copy that can be read at every moment, continued, and never mixed with what others planned."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from stores import RAGGED, check, fill, filled, hashes, make, plan_in_format_1, records

from refusal_lightning.errors import UserError
from refusal_lightning.store import ActivationStore, integrity
from refusal_lightning.store.backend.local import LocalBackend
from refusal_lightning.store.copying import copy


class Cut(Exception):
    """The copy ends here."""


def after_each_write(patch: pytest.MonkeyPatch, then: Callable[[int], None]) -> None:
    """Call a function with the number of files written whenever one more is."""
    write, done = LocalBackend.write, itertools.count(1)

    def observed(self, key, parts):
        write(self, key, parts)
        then(next(done))

    patch.setattr(LocalBackend, "write", observed)


def damaged_shards(url: Path) -> list[str]:
    return [problem.what for problem in integrity.verify(url) if problem.shard is not None and not problem.missing]


def test_a_copy_cut_short_after_any_file_is_a_whole_store(tmp_path):
    """After each file what was there before can be read, and no shard is damaged."""
    local = filled(tmp_path / "own" / "s.zarr", range(4), layout=RAGGED)
    local.save_result("scores", {"x": np.zeros(3)}, {"n": 4})
    copy(tmp_path / "own", tmp_path / "shared")
    local.add_prompts(records(range(4, 10)))
    fill(local)
    local.save_result("scores", {"x": np.ones(3)}, {"n": 10})
    files = []

    def look(written: int) -> None:
        files.append(written)
        shared = ActivationStore.open(tmp_path / "shared" / "s.zarr")
        check(shared, range(4))
        assert damaged_shards(tmp_path / "shared" / "s.zarr") == []
        assert shared.load_result("scores")[1]["n"] in (4, 10)  # type: ignore[index]

    with pytest.MonkeyPatch.context() as patch:
        after_each_write(patch, look)
        copy(tmp_path / "own", tmp_path / "shared")
    shared = ActivationStore.open(tmp_path / "shared" / "s.zarr")
    check(shared, range(10))
    assert len(files) > 5 and integrity.verify(shared.url) == []
    assert shared.load_result("scores")[1] == {"n": 10}  # type: ignore[index]


def test_a_copy_that_was_cut_short_goes_on(tmp_path):
    """The shards that came over count, and are not copied again."""
    local = filled(tmp_path / "s.zarr", range(20))

    def cut(_: int) -> None:
        if (tmp_path / "t.zarr" / "next_token_logits" / "c.1.0").exists():
            raise Cut

    with pytest.MonkeyPatch.context() as patch:
        after_each_write(patch, cut)
        with pytest.raises(Cut):
            copy(local.url, tmp_path / "t.zarr")
    shared = ActivationStore.open(tmp_path / "t.zarr")
    assert len(shared.pending()) == len(local.shards) - 2
    (done,) = copy(local.url, shared.url)
    assert done.shards == 3 * (len(local.shards) - 2)
    check(shared, range(20))


def test_what_both_planned_is_refused_and_nothing_is_mixed(tmp_path):
    """Two copies of one store that went on with other prompts each: neither takes anything of the other."""
    filled(tmp_path / "shared" / "s.zarr", range(10))
    for name, numbers in (("a", range(10, 20)), ("b", range(20, 30))):
        copy(tmp_path / "shared", tmp_path / name)
        store = ActivationStore.open(tmp_path / name / "s.zarr")
        store.add_prompts(records(numbers))
        fill(store)
    copy(tmp_path / "b", tmp_path / "shared")
    before = {path: path.read_bytes() for path in (tmp_path / "shared").rglob("*") if path.is_file()}
    with pytest.raises(UserError, match="each planned prompts that the other has not"):
        copy(tmp_path / "a", tmp_path / "shared")
    assert before == {path: path.read_bytes() for path in (tmp_path / "shared").rglob("*") if path.is_file()}
    check(ActivationStore.open(tmp_path / "shared" / "s.zarr"), [*range(10), *range(20, 30)])
    copy(tmp_path / "a", tmp_path / "kept")
    check(ActivationStore.open(tmp_path / "kept" / "s.zarr"), range(20))


def test_a_target_that_is_ahead_stays_ahead(tmp_path):
    """A source that planned less gives the shards it has, and takes no plan and no newer result away."""
    early = make(tmp_path / "early.zarr")
    early.add_prompts(records(range(20)))
    late = tmp_path / "late.zarr"
    copy(early.url, late)
    early.save_result("scores", {"x": np.zeros(3)}, {"age": "old"})
    fill(early)
    ahead = ActivationStore.open(late)
    ahead.add_prompts(records(range(20, 30)))
    ahead.save_result("scores", {"x": np.ones(3)}, {"age": "new"})
    (done,) = copy(early.url, late)
    assert done.shards and not done.results
    assert ahead.complete(hashes(range(20))) and len(ahead.prompts) == 30
    check(ahead, range(20))
    assert ahead.load_result("scores")[1] == {"age": "new"}  # type: ignore[index]


def test_only_what_belongs_to_the_store_is_copied(tmp_path):
    """Locks, half-written files and shards that nobody planned stay where they are; a folder may hold other things."""
    store = filled(tmp_path / "from" / "s.zarr")
    for stray in ("prompt/plan.lock", "resid_pre/c.3.0.0.0.host-1.abc.partial", "resid_pre/c.99.0.0.0"):
        (Path(store.url) / stray).write_bytes(b"x")
    (tmp_path / "from" / "notes").mkdir()
    copy(tmp_path / "from", tmp_path / "to")
    names = {str(path.relative_to(tmp_path / "to")) for path in (tmp_path / "to").rglob("*")}
    assert not [name for name in names if "lock" in name or "partial" in name or "c.99" in name or "notes" in name]
    assert integrity.verify(tmp_path / "to" / "s.zarr") == []


def test_other_places(tmp_path):
    """To and from a URL; a place of another store, and no place at all."""
    store = filled(tmp_path / "s.zarr", range(10))
    copy(store.url, "memory://copies/s.zarr")
    copy("memory://copies", tmp_path / "back")
    check(ActivationStore.open(tmp_path / "back" / "s.zarr"), range(10))
    make(tmp_path / "other.zarr", RAGGED)
    with pytest.raises(UserError, match=r"no copy of .*layout"):
        copy(store.url, tmp_path / "other.zarr")
    with pytest.raises(UserError, match="there is no activation store"):
        copy(tmp_path / "nothing", tmp_path / "other")
    (tmp_path / "empty").mkdir()
    assert copy(tmp_path / "empty", tmp_path / "other") == []


def test_a_full_disk_is_found_first(tmp_path, monkeypatch):
    store = filled(tmp_path / "s.zarr", range(10))
    monkeypatch.setattr(LocalBackend, "free_bytes", lambda self: 10)
    with pytest.raises(UserError, match="free some space"):
        copy(store.url, tmp_path / "t.zarr")


@pytest.mark.parametrize("kind", ["eoi", "all"])
def test_a_store_of_format_1(kind, format_1, tmp_path):
    """Its copy has a log, nothing has moved in it, and either goes on from the other."""
    copy(format_1 / kind, tmp_path / "to")
    there = ActivationStore.open(tmp_path / "to")
    whole = [n for n in range(20) if there.complete(hashes([n]))]
    assert there.manifest["format"] == 2 and 12 <= len(whole) < 20
    check(there, whole)
    fill(there)
    there.add_prompts(records(range(20, 25)))
    fill(there)
    copy(tmp_path / "to", format_1 / kind)
    check(ActivationStore.open(format_1 / kind), range(25))
    assert integrity.verify(format_1 / kind) == [] == integrity.verify(tmp_path / "to")


def test_a_target_with_left_over_shards(tmp_path):
    """What stands there and is of other prompts does not count as copied."""
    store = filled(tmp_path / "s.zarr", range(10))
    filled(tmp_path / "t.zarr", range(50, 60))
    for name in ("prompt", "zarr.json"):
        path = tmp_path / "t.zarr" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    copy(store.url, tmp_path / "t.zarr")
    check(ActivationStore.open(tmp_path / "t.zarr"), range(10))


def test_what_zarr_readers_see_of_a_copy_cut_short_is_written_when_it_goes_on(tmp_path):
    """Cut at any file: the next copy has all of it, and not the log and the shards alone."""
    local = filled(tmp_path / "s.zarr", range(10))
    for files in (1, 3, 8, 20):

        def cut(written: int, files: int = files) -> None:
            if written == files:
                raise Cut

        with pytest.MonkeyPatch.context() as patch:
            after_each_write(patch, cut)
            with pytest.raises(Cut):
                copy(local.url, tmp_path / str(files))
        copy(local.url, tmp_path / str(files))
        assert integrity.verify(tmp_path / str(files)) == []


@pytest.mark.parametrize("source_has_a_log", [True, False])
def test_an_older_version_planned_between_two_copies(source_has_a_log, format_1, tmp_path):
    """Source and copy got their logs at different times, to which their shards are bound: nothing is put together."""
    copy(format_1 / "eoi", tmp_path / "to")
    plan_in_format_1(format_1 / "eoi", range(20, 25))
    if source_has_a_log:
        make(format_1 / "eoi").add_prompts(records(range(25, 30)))
    with pytest.raises(UserError, match="an older version of this package planned some of it"):
        copy(format_1 / "eoi", tmp_path / "to")
    there = ActivationStore.open(tmp_path / "to")
    assert len(there.prompts) == 20
    fill(there)
    check(there, range(20))
    assert integrity.verify(there.url) == []
    copy(format_1 / "eoi", tmp_path / "another")
    assert len(ActivationStore.open(tmp_path / "another").prompts) == (30 if source_has_a_log else 25)
