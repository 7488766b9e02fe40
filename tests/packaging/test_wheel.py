"""The wheel works where there is no clone: scripts/try_wheel.py, with the dependencies that are here."""

from __future__ import annotations

import subprocess
import sys

import pytest
from nodes import ROOT


@pytest.mark.slow
def test_the_wheel_works_without_a_clone(tmp_path, demo_folder):
    command = [sys.executable, "scripts/try_wheel.py", "--dependencies", "borrowed", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "elsewhere" / "mine" / "config.yaml").is_file()
