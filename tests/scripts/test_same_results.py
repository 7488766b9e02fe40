"""Two checkouts are compared by everything that they write."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from same_results import results, shared_content, tell

ROOT = Path(__file__).parents[2]


def compare(before: Path, after: Path) -> tuple[int, str]:
    command = [sys.executable, "scripts/same_results.py", str(before), str(after), "--cases", "demo", "--tiny"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)
    return done.returncode, done.stdout


@pytest.mark.slow
def test_a_checkout_and_itself():
    status, told = compare(ROOT, ROOT)
    assert status == 0 and ", 0 differ" in told


@pytest.mark.slow
def test_a_planted_change_is_found(tmp_path):
    """A file of another name, a journal of another name, and the record that names the first."""
    shutil.copytree(ROOT / "refusal_lightning", tmp_path / "refusal_lightning")
    folder = tmp_path / "refusal_lightning" / "runs" / "folder.py"
    text = folder.read_text().replace('"filter_report.txt"', '"filtering.txt"')
    folder.write_text(text.replace('f"{kind}-{key}"', 'f"{kind}.{key}"'))
    status, told = compare(ROOT, tmp_path)
    assert status == 1
    assert "only before: runs/tiny/select_direction/filter_report.txt" in told
    assert "only after: runs/tiny/select_direction/filtering.txt" in told
    assert "only after: kept/runs/tiny/.journal/scores.scores" in told
    assert "differs: runs/tiny/run.json" in told and "differs: store/" not in told


def test_what_two_runs_do_not_share_is_left_out():
    record = {"select": {"selected": 1}, "timings": {"select_seconds": 1.0}, "versions": {}}
    again = record | {"timings": {"select_seconds": 2.0}}
    contents = [shared_content("runs/demo/run.json", json.dumps(value).encode()) for value in (record, again)]
    assert contents[0] == contents[1] and b"selected" in contents[0]
    other = shared_content("runs/demo/run.json", json.dumps(record | {"select": {"selected": 2}}).encode())
    assert other != contents[0]
    marker = [{"attributes": {"version": v, "saved": s, "arrays": {"kl": [2]}}} for v, s in (("va", 1.0), ("vb", 2.0))]
    names = ("store/demo.zarr/results/scores-1/zarr.json", "store/demo.zarr/resid_pre/zarr.json")
    results_, arrays = ([shared_content(name, json.dumps(node).encode()) for node in marker] for name in names)
    assert results_[0] == results_[1] and b"arrays" in results_[0]
    assert arrays[0] != arrays[1]


def test_what_differs_is_named(tmp_path, capsys):
    sides = {}
    for side, name in (("before", "journal-1"), ("after", "journal-2")):
        for path, content in ((f"kept/.journal/{name}/rank0.jsonl", "{}\n"), ("store/a.zarr/x/c.0", side)):
            (tmp_path / side / path).parent.mkdir(parents=True)
            (tmp_path / side / path).write_text(content)
        version = tmp_path / side / "store/a.zarr/results/scores" / f"v{'01'[side == 'after'] * 32}"
        version.mkdir(parents=True)
        (version / "c.0").write_bytes(b"1")
        sides[side] = results(tmp_path / side)
    assert not tell("demo", sides["before"], sides["after"])
    first, *differing = capsys.readouterr().out.splitlines()
    assert first == f"{'demo':14}     4 files (2 in store, 0 in runs, 2 in kept): 1 equal, 3 differ"
    assert [line.strip() for line in differing] == [
        "only before: kept/.journal/journal-1/rank0.jsonl",
        "only after: kept/.journal/journal-2/rank0.jsonl",
        "differs: store/a.zarr/x/c.0",
    ]
    assert tell("demo", sides["before"], sides["before"])
    assert not tell("demo", {}, {}), "nothing was written at all"
