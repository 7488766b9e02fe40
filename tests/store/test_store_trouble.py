"""Full disks, read-only folders, locks and other trouble: one clear line, and a store that still opens."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from stores import IDENTITY, LAYOUT, check, data_files, fill, filled, hashes, make, records, shard_arrays

from refusal_lightning.errors import UserError
from refusal_lightning.store import ActivationStore, Encoding, Layout, StoreError, verify
from refusal_lightning.store import lock as lock_module
from refusal_lightning.store.lock import KEY, planning
from refusal_lightning.store.objects import LocalObjects


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
    """Arrays are there and the manifest is not: the next start makes the store."""
    url = tmp_path / "s"
    make(url)
    (url / "zarr.json").unlink()
    check(filled(url, range(3)), range(3))


def test_killed_while_planning(tmp_path, monkeypatch):
    """All of a plan is there but the manifest: readers see the store as it was, and the next plan replaces it."""
    store = filled(tmp_path / "s", range(10))
    from refusal_lightning.store import activation_store

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(activation_store, "write_manifest", killed)
        with pytest.raises(KeyboardInterrupt):
            store.add_prompts(records(range(10, 40)))
    again = ActivationStore.open(store.url)
    check(again, range(10))
    assert len(again.prompts) == 10 and again.pending() == []
    assert again.add_prompts(records(range(8, 14))) == 4
    fill(again)
    check(again, range(14))
    assert verify(store.url) == []


def test_planning_waits_for_another_planner(tmp_path):
    store = filled(tmp_path / "s", range(3))
    objects = LocalObjects(tmp_path / "s")
    release = threading.Event()
    held = threading.Event()

    def hold() -> None:
        with planning(objects):
            held.set()
            release.wait(10)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    with (
        pytest.raises(UserError, match=f"is being planned by process {os.getpid()} on .*or delete"),
        planning(objects, 0.2),
    ):
        pass
    threading.Timer(0.3, release.set).start()
    assert store.add_prompts(records(range(5))) == 2
    holder.join()
    assert objects.read(KEY) is None


@pytest.mark.parametrize("who", ["a dead process here", "another host, long ago", "another host, now", "torn"])
def test_locks_that_are_left(who, tmp_path, monkeypatch):
    store = filled(tmp_path / "s", range(3))
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = {
        "a dead process here": {"host": socket.gethostname(), "pid": dead.pid, "time": time.time(), "id": "x"},
        "another host, long ago": {"host": "elsewhere", "pid": 1, "time": time.time() - 10_000, "id": "x"},
        "another host, now": {"host": "elsewhere", "pid": 1, "time": time.time(), "id": "x"},
        "torn": None,
    }[who]
    (tmp_path / "s" / KEY).write_text("" if left is None else json.dumps(left))
    monkeypatch.setattr(lock_module, "WAIT_SECONDS", 0.3)
    if who in ("another host, now", "torn"):
        with pytest.raises(UserError, match="is being planned by"):
            store.add_prompts(records(range(5)))
        check(store, range(3))
    else:
        assert store.add_prompts(records(range(5))) == 2


def test_many_planners_at_once(tmp_path):
    """Each adds its own prompts, all of which end in the store, once."""
    url = tmp_path / "s"
    make(url)
    failed: list[BaseException] = []

    def plan(part: int) -> None:
        try:
            ActivationStore.open(url).add_prompts(records(range(part * 5, part * 5 + 10)))
        except BaseException as error:
            failed.append(error)

    planners = [threading.Thread(target=plan, args=(part,)) for part in range(4)]
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
