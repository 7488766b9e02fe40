"""One planner at a time: a lock file for the seconds in which prompts are added. Nothing on the data path locks."""

from __future__ import annotations

import json
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from refusal_lightning.errors import UserError
from refusal_lightning.store.errors import StoreError
from refusal_lightning.store.objects import Objects, process_lives

KEY = "prompt/plan.lock"
"""Inside an array's folder, where no zarr reader looks for nodes."""
WAIT_SECONDS = 60.0
"""How long to wait for another planner by default."""
STALE_SECONDS = 900.0
"""Planning takes seconds: a lock of another host that is older than this was left by a process that died."""


@contextmanager
def planning(objects: Objects, wait_seconds: float | None = None) -> Iterator[Callable[[], None]]:
    """Hold the store's planning lock; yields a function that raises StoreError should the lock have been taken away.

    Raises UserError if another process keeps the lock for longer than the wait.
    """
    mine = {"host": socket.gethostname(), "pid": os.getpid(), "time": time.time(), "id": uuid.uuid4().hex}
    data = json.dumps(mine).encode()
    deadline = time.monotonic() + (WAIT_SECONDS if wait_seconds is None else wait_seconds)
    while not objects.create(KEY, data):
        found = objects.read(KEY)
        if found is None:
            continue
        holder = _parsed(found)
        if _is_stale(holder):
            if objects.read(KEY) == found:
                objects.delete(KEY)
        elif time.monotonic() > deadline:
            raise UserError(
                f"store {objects.url} is being planned by process {holder.get('pid')} on {holder.get('host')}; wait "
                f"for it, or delete {objects.url}/{KEY} if that process is gone"
            )
        else:
            time.sleep(0.1)

    def check() -> None:
        if objects.read(KEY) != data:
            raise StoreError(f"store {objects.url}: another process took over planning; start again to continue")

    try:
        yield check
    finally:
        if objects.read(KEY) == data:
            objects.delete(KEY)


def _parsed(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
        return value if isinstance(value, dict) else {}
    except ValueError:
        return {}


def _is_stale(holder: dict[str, Any]) -> bool:
    if "pid" not in holder:
        return False
    if time.time() - holder["time"] > STALE_SECONDS:
        return True
    return bool(holder["host"] == socket.gethostname()) and not process_lives(holder["pid"])
