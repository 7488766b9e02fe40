"""A few threads for work that leaves Python's lock: copies, checksums, compression, file access."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")
State = TypeVar("State")

MOST = 8
"""More threads than this find no more memory bandwidth."""
WORTH_BYTES = 4 << 20
"""Less data than this is done sooner than threads are started."""


def thread_count(size: int) -> int:
    """Threads for one read or write of so many bytes: the CPUs this process may use, at most MOST."""
    if size < WORTH_BYTES:
        return 1
    return min(MOST, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def slices(count: int, parts: int) -> list[range]:
    """``range(count)`` in at most so many contiguous parts of nearly equal size."""
    parts = max(1, min(parts, count))
    return [range(i * count // parts, (i + 1) * count // parts) for i in range(parts)]


def map_unordered(
    work: Callable[[Task, State], None], tasks: Sequence[Task], state: Callable[[], State], threads: int
) -> None:
    """Do all tasks in a few threads, in no fixed order, each thread with a state of its own; raises the first error."""
    threads = min(threads, len(tasks))
    shared = iter(tasks)  # a sequence's iterator hands each item to one thread only

    def some() -> None:
        own = state()
        for task in shared:
            work(task, own)

    if threads <= 1:
        some()
        return
    with ThreadPoolExecutor(threads) as pool:
        for future in [pool.submit(some) for _ in range(threads)]:
            future.result()


def map_ordered(work: Callable[[Task], Result], tasks: Iterable[Task], threads: int) -> Iterator[Result]:
    """Results in the order of the tasks, computed in threads a few ahead of the one asked for (1: in this one)."""
    if threads <= 1:
        yield from map(work, tasks)
        return
    with ThreadPoolExecutor(threads) as pool:
        ahead: deque[Future[Result]] = deque()
        try:
            for task in tasks:
                ahead.append(pool.submit(work, task))
                if len(ahead) > threads + 1:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()
