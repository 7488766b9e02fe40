"""What `select` and `analyze` read of a store passes through memory piece by piece, however many prompts there are."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


def megabytes(*sizes: int) -> tuple[float, float]:
    """(how far the peak of many prompts is above that of few, the peak), of a process of its own."""
    script = Path(__file__).parents[1] / "helpers" / "generated_store.py"
    done = subprocess.run(
        [sys.executable, str(script), *map(str, sizes)], capture_output=True, text=True, env=os.environ, check=False
    )
    assert done.returncode == 0, done.stderr
    more, peak = done.stdout.split()[-2:]
    return float(more), float(peak)


def test_memory_does_not_grow_with_the_prompts():
    more, _ = megabytes(32_000, 8, 400, 1600)  # 1,600 prompts have 900 MB of logits as they are handled, 400 have 230
    assert more < 100


def test_nor_does_that_of_estimators_and_analyses():
    more, _ = megabytes(16, 32, 1200, 4800)  # a matrix of 9,600 by 9,600 has 740 MB
    assert more < 100


@pytest.mark.slow
def test_a_hundred_thousand_prompts_in_a_gigabyte():
    _, peak = megabytes(128_000, 128, 2000, 45_455)
    assert peak < 1000
