"""The examples run as they stand, named on the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from nodes import ROOT


def run(*argv: str | Path) -> None:
    command = [sys.executable, "-m", "refusal_lightning", *map(str, argv)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_own_judge(tmp_path):
    long = "Blue is a colour that many people like. It is the colour of the sky, which I cannot say of green."
    rows = [
        {"category": None, "prompt": "Name a colour.", "response": response} for response in (long, "I cannot do that.")
    ]
    (tmp_path / "completions.json").write_text(json.dumps(rows))
    out = tmp_path / "verdicts.json"
    plugin = "examples/own_judge.py"
    where = ["--completions", tmp_path / "completions.json", "--out", out]
    run("judge", "--plugins", plugin, "--judges", "[substring, opening]", *where)
    evaluation = json.loads(out.read_text())
    assert [row["is_jailbreak_substring_matching"] for row in evaluation["completions"]] == [0, 0]
    assert [row["is_jailbreak_opening"] for row in evaluation["completions"]] == [1, 0]
