"""Full disks, read-only folders, locks and other trouble: one clear line, and a store that still opens."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stores import IDENTITY, LAYOUT, check, data_files, fill, filled, hashes, make, records, shard_arrays

from refusal_lightning.errors import UserError
from refusal_lightning.store import ActivationStore, Encoding, Layout, StoreError, verify
from refusal_lightning.store.backend.local import LocalBackend


def test_a_full_disk(small_disk):
    layout = Layout(("resid_pre",), (0, 1), (-1,), d_model=25_000)  # 200 kB per prompt
    store = ActivationStore.create_or_open(small_disk / "s", IDENTITY, layout, Encoding("none", 200_000))
    store.add_prompts(records(range(20)))
    with pytest.raises(StoreError, match=r"the disk is full while writing resid_pre/c\.\d+") as caught:
        fill(store)
    assert "\n" not in str(caught.value)
    whole = [number for number in range(20) if store.complete(hashes([number]))]
    assert len(whole) > 5
    check(ActivationStore.open(store.url), whole)
    assert [problem for problem in verify(store.url) if not problem.missing] == []
    assert not list(small_disk.rglob("*.partial"))
    with pytest.raises(UserError, match=r"needs about .* GB more and its disk has"):
        store.check_space(store.estimate(20 - len(whole)))
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    fill(store)
    check(store, range(20))


def test_a_disk_full_while_planning(small_disk):
    store = filled(small_disk / "s", range(3))
    filler = small_disk / "filler"
    with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(b"x" * 4096)
    with pytest.raises(StoreError, match="the disk is full"):
        store.add_prompts(records(range(3000)))
    check(ActivationStore.open(store.url), range(3))
    filler.unlink()
    assert ActivationStore.open(store.url).add_prompts(records(range(4))) == 1


def test_a_read_only_folder(tmp_path):
    url = tmp_path / "disk" / "s"
    store = filled(url, range(3))
    if os.getuid() == 0:  # root writes where permissions say no; a read-only mount says no to root as well
        bind = ["mount", "--bind", str(tmp_path / "disk"), str(tmp_path / "disk")]
        if subprocess.run(bind, capture_output=True, check=False).returncode:
            pytest.skip("needs a read-only mount")
        subprocess.run(["mount", "-o", "remount,ro,bind", str(tmp_path / "disk")], check=True)
    else:
        for path in [url, *url.rglob("*")]:
            path.chmod(path.stat().st_mode & ~0o222)
    try:
        check(ActivationStore.open(url), range(3))
        assert verify(url) == []
        assert store.add_prompts(records(range(3))) == 0
        for write in (
            lambda: store.add_prompts(records([9])),
            lambda: store.save_result("a", {"x": np.zeros(1)}, {}),
            lambda: make(tmp_path / "disk" / "other"),
        ):
            with pytest.raises(UserError, match=r"cannot be written \((Read-only file system|Permission denied)"):
                write()
    finally:
        if os.getuid() == 0:
            subprocess.run(["umount", "-l", str(tmp_path / "disk")], check=True)


def test_places_that_are_no_store(tmp_path):
    with pytest.raises(UserError, match="there is no activation store at"):
        ActivationStore.open(tmp_path / "nothing")
    with pytest.raises(UserError, match="the path is empty"):
        ActivationStore.open("")
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(UserError, match="is not a folder"):
        make(file)
    (tmp_path / "home" / "letters").mkdir(parents=True)
    with pytest.raises(UserError, match=r"holds other things \(letters\)"):
        make(tmp_path / "home")
    other = tmp_path / "other"
    other.mkdir()
    (other / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes": {}}')
    for opening in (ActivationStore.open, make):
        with pytest.raises(UserError, match="is no activation store"):
            opening(other)
    with pytest.raises(UserError, match="store /proc/x cannot be created there; choose another place"):
        make("/proc/x")
    with pytest.raises(UserError, match="nosuch"):
        ActivationStore.open("nosuch://x/y")
    assert ActivationStore.exists(tmp_path / "nothing") is False


def test_killed_while_it_is_made(tmp_path):
    """The log is begun and nothing else is there: the next start makes the store."""
    url = tmp_path / "s"
    make(url)
    for path in url.iterdir():
        path.unlink() if path.is_file() else shutil.rmtree(path) if path.name != "prompt" else None
    check(filled(url, range(3)), range(3))
    assert verify(url) == []


def test_killed_while_planning(tmp_path, monkeypatch):
    """The plan is in the log and zarr readers do not see it yet: the next start shows it to them."""
    store = filled(tmp_path / "s", range(10))
    from refusal_lightning.store.format import row_files

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(row_files, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            store.add_prompts(records(range(10, 40)))
    again = ActivationStore.open(store.url)
    check(again, range(10))
    assert len(again.prompts) == 40 and again.lacking(hashes(range(40))) == hashes(range(10, 40))
    assert verify(store.url)
    fill(make(store.url))
    check(again, range(40))
    assert verify(store.url) == []


def test_many_planners_at_once(tmp_path):
    """Each adds its own prompts, all of which end in the store, once."""
    url = tmp_path / "s"
    make(url)
    failed: list[BaseException] = []

    def add(part: int) -> None:
        try:
            ActivationStore.open(url).add_prompts(records(range(part * 5, part * 5 + 10)))
        except BaseException as error:
            failed.append(error)

    planners = [threading.Thread(target=add, args=(part,)) for part in range(4)]
    for planner in planners:
        planner.start()
    for planner in planners:
        planner.join()
    assert not failed
    store = ActivationStore.open(url)
    fill(store)
    assert sorted(store.prompts.hashes()) == sorted(hashes(range(25)))
    check(store, range(25))


def test_the_store_is_deleted_meanwhile(tmp_path):
    store = filled(tmp_path / "s", range(3))
    shutil.rmtree(tmp_path / "s")
    with pytest.raises(StoreError, match="is gone"):
        store.pending()


def test_an_error_while_writing_leaves_nothing(tmp_path):
    layout = Layout(("resid_pre",), (0,), (-1,), d_model=4, dtype="float16")
    store = make(tmp_path / "s", layout=layout)
    store.add_prompts(records([1]))
    with pytest.raises(ValueError, match="cannot be kept exactly"):
        store.write_shard(0, {"resid_pre": np.full((1, 1, 1, 4), 1e30, dtype=np.float32)})
    assert not list(Path(store.url).rglob("*.partial")) and not data_files(store)


def test_what_is_written_is_durable(tmp_path, monkeypatch):
    """Each file is synced before its name appears, and its folder after; a shard is not complete before."""
    store = make(tmp_path / "s")
    store.add_prompts(records(range(3)))
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(str(Path(f"/proc/self/fd/{fd}").readlink())))
    store.write_shard(0, shard_arrays(LAYOUT, store.shard(0)))
    for name in LAYOUT.array_names:
        (file, folder) = (path for path in synced if f"/{name}" in path)
        assert file.endswith(".partial") and Path(folder) == tmp_path / "s" / name


@pytest.mark.parametrize(("owner", "name", "times"), [(Path, "read_bytes", 2), (os, "scandir", 2), (os, "preadv", 1)])
def test_a_file_that_another_node_replaces(owner, name, times, tmp_path, monkeypatch):
    """NFS says ESTALE of a file that has just been replaced: it is opened once more, and its bytes are the same."""
    store = filled(tmp_path / "s", range(10))
    call = getattr(owner, name)
    said: list[bool] = []

    def stale(*args: Any) -> Any:
        said.append(len(said) % (times + 1) < times)
        if said[-1]:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return call(*args)

    monkeypatch.setattr(owner, name, stale)
    check(ActivationStore.open(store.url), range(10))
    assert sum(said) > times


def test_a_plan_that_is_seen_late(tmp_path, monkeypatch):
    """Another node has planned, and this one is still shown the folder as it was: the shard is waited for."""
    store = filled(tmp_path / "s", range(3))
    reader = ActivationStore.open(store.url)
    store.add_prompts(records(range(40)))
    sizes = LocalBackend.sizes
    shown: list[str] = []

    def late(backend: LocalBackend, folder: str) -> Any:
        shown.append(folder)
        return {k: v for k, v in sizes(backend, folder).items() if len(shown) > 3 or not k.startswith("000002")}

    monkeypatch.setattr(LocalBackend, "sizes", late)
    assert reader.shard(len(store.shards) - 1).hashes == store.shards[-1].hashes
    monkeypatch.setattr("refusal_lightning.store.state.SEEN_SECONDS", 0.0)
    with pytest.raises(IndexError):
        reader.shard(99)
