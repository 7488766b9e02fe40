"""Writers killed at any moment, and several at once: the store ends with the bytes of an undisturbed run."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from stores import check, filled, hashes, make, records

from refusal_lightning.store import ActivationStore, verify

COUNT = 120
WRITER = [sys.executable, str(Path(__file__).with_name("writer.py"))]


def _start(url: Path, *args: int) -> subprocess.Popen[str]:
    command = [*WRITER, str(url), str(COUNT), *map(str, args)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _finish(process: subprocess.Popen[str]) -> None:
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors


def _files(url: Path) -> dict[str, bytes]:
    return {str(path.relative_to(url)): path.read_bytes() for path in url.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> dict[str, bytes]:
    url = tmp_path_factory.mktemp("undisturbed") / "store"
    filled(url, range(COUNT), compression="none", shard_bytes=2000)
    return _files(url)


def _kill_and_continue(url: Path, kills: int, seed: int) -> int:
    """Start writers and kill each after a random time; how many kills left the store unfinished."""
    moments = random.Random(seed)
    midway = 0
    for attempt in range(kills):
        process = _start(url)
        if attempt % 3 < 2:  # while data are written; the rest also while the store is made or planned
            assert process.stdout is not None
            for _ in range(moments.randint(2, 3)):
                process.stdout.readline()
            time.sleep(moments.uniform(0, 0.003))
        else:
            time.sleep(moments.uniform(0.3, 1.2))
        process.kill()
        process.communicate()
        if ActivationStore.exists(url):
            store = ActivationStore.open(url)
            whole = [int(number) for number in range(COUNT) if store.complete(hashes([number]))]
            if whole:
                check(store, whole)
            midway += 0 < len(whole) < COUNT
    _finish(_start(url))
    return midway


def test_killed_writers(tmp_path, undisturbed):
    url = tmp_path / "store"
    midway = _kill_and_continue(url, kills=9, seed=1)
    assert midway
    assert _files(url) == undisturbed
    assert verify(url) == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_killed_writers_many_times(tmp_path, undisturbed, seed):
    url = tmp_path / "store"
    _kill_and_continue(url, kills=25, seed=seed)
    assert _files(url) == undisturbed


def test_two_writers_at_once(tmp_path, undisturbed):
    """Both create, plan and write at the same time; each writes every other shard."""
    url = tmp_path / "store"
    writers = [_start(url, part, 2) for part in range(2)]
    for writer in writers:
        _finish(writer)
    store = ActivationStore.open(url)
    if store.pending():  # a writer that found half the shards written took every other one of the rest
        _finish(_start(url))
    assert _files(url) == undisturbed


def test_the_same_shards_from_two_writers(tmp_path, undisturbed):
    url = tmp_path / "store"
    writers = [_start(url) for _ in range(2)]
    for writer in writers:
        _finish(writer)
    assert _files(url) == undisturbed


def test_one_of_two_writers_killed(tmp_path, undisturbed):
    url = tmp_path / "store"
    make(url, compression="none", shard_bytes=2000).add_prompts(records(range(COUNT)))
    one, other = _start(url, 0, 2), _start(url, 1, 2)
    assert one.stdout is not None
    one.stdout.readline()
    one.kill()
    one.communicate()
    _finish(other)
    _finish(_start(url))
    assert _files(url) == undisturbed


def test_reading_while_a_writer_appends(tmp_path):
    url = tmp_path / "store"
    store = filled(url, range(30), compression="none", shard_bytes=2000)
    reader = ActivationStore.open(url)
    writer = _start(url)
    seen = set()
    while writer.poll() is None:
        check(reader, range(30))
        prompts = reader.prompts
        whole = prompts.hashes(complete=True)
        rows, data = reader.complete_rows(), reader.read("resid_pre")
        assert set(whole) >= set(hashes(range(30))) and len(rows) >= len(whole)
        assert len(data) >= len(rows)
        seen.add(len(whole))
    _finish(writer)
    check(reader, range(COUNT))
    check(store, range(COUNT))
    assert len(seen) > 1
