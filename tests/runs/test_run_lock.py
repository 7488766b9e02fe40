"""A run's folder is worked in by one job at a time, and taken over from one that died."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from refusal_lightning.errors import UserError
from refusal_lightning.runs import lock
from refusal_lightning.runs.lock import held, held_for_a_moment

HOLD = """
import sys, time
from pathlib import Path
from typing import Any
from refusal_lightning.runs.lock import held
with held(Path(sys.argv[1]), "select"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def other(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds `select`."""
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield process
        process.kill()


def hold(folder: Path, name: str, *shuts_out: str) -> None:
    with held(folder, name, shuts_out) as check:
        check()


def lock_of_another_machine(folder: Path, name: str = "select") -> Path:
    path = folder / f".{name}.lock"
    holder = {"name": name, "host": "elsewhere", "pid": 1, "boot": "b", "namespace": "n", "started": "1"}
    path.write_text(json.dumps(holder))
    return path


def test_the_second_is_told_of_the_first(tmp_path, other):
    for name, shuts_out in (("select", ()), ("evaluate", ("select",))):
        with pytest.raises(UserError, match=f"in use by `select`, process {other.pid} on "):
            hold(tmp_path, name, *shuts_out)
    hold(tmp_path, "capability", "analyze")  # neither of which is held


def test_what_a_killed_one_left_is_taken_over_at_once(tmp_path, other):
    other.send_signal(signal.SIGKILL)
    other.wait()
    began = time.monotonic()
    hold(tmp_path, "select")
    assert time.monotonic() - began < 1
    assert not list(tmp_path.iterdir())


def test_another_machines_is_watched(tmp_path, monkeypatch):
    """By signs of life, whatever the clocks say: one that gives some is named, one that gives none is gone."""
    monkeypatch.setattr(lock, "LOST", 1.0)
    path = lock_of_another_machine(tmp_path)
    stop = threading.Event()
    monkeypatch.setattr(lock, "BEAT", 0.1)
    heart = threading.Thread(target=lock._Lock(tmp_path, "select").beat, args=(stop,))
    heart.start()
    with pytest.raises(UserError, match="process 1 on elsewhere"):
        hold(tmp_path, "select")
    stop.set()
    heart.join()
    hold(tmp_path, "select")
    assert not path.exists()


def test_a_lock_that_nobody_can_read_is_watched_too(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "LOST", 0.2)
    (tmp_path / ".select.lock").write_bytes(b"")
    hold(tmp_path, "select")


def test_one_that_was_taken_over_notices(tmp_path):
    with held(tmp_path, "select") as check:
        lock_of_another_machine(tmp_path)
        with pytest.raises(UserError, match="taken over by another job"):
            check()
    assert (tmp_path / ".select.lock").exists()  # which is the other's


def test_only_what_was_found_is_removed(tmp_path):
    """Of two that see one dead lock, the slower must not remove what the faster has taken since."""
    path = lock_of_another_machine(tmp_path)
    found = path.read_bytes()
    path.write_bytes(b"{}")
    lock._Lock(tmp_path, "select")._remove(found)
    assert path.read_bytes() == b"{}"
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_moments_are_waited_for(tmp_path):
    counts = [0]

    def add() -> None:
        for _ in range(20):
            with held_for_a_moment(tmp_path, "record"):
                seen = counts[0]
                time.sleep(0.001)
                counts[0] = seen + 1

    threads = [threading.Thread(target=add) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == [60]


@pytest.mark.parametrize("links", [True, False])
def test_no_lock_is_there_without_its_holder(links, tmp_path, monkeypatch):
    """Who comes upon an empty one waits to see whose it is, and names nobody."""
    path, seen = tmp_path / ".select.lock", []
    real = Path.open

    def look(self: Path, *args: Any, **options: Any) -> Any:
        file = real(self, *args, **options)
        if os.path.exists(path):  # noqa: PTH110
            with open(path, "rb") as lock:  # noqa: PTH123
                seen.append(lock.read())
        return file

    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    if links:
        monkeypatch.setattr(Path, "open", look)
    else:
        monkeypatch.setattr(os, "link", refuse)
    hold(tmp_path, "select")
    assert b"" not in seen
    assert list(tmp_path.iterdir()) == []
