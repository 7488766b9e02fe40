"""The page on artifacts has every file that a run leaves, with its columns and keys."""

from __future__ import annotations

import csv
import fnmatch
import json
import re
from pathlib import Path

import pytest
from nodes import ROOT

from refusal_lightning.runs.folder import FILES

PAGE = (ROOT / "docs" / "artifacts.md").read_text(encoding="utf-8")
ROWS = dict(re.findall(r"^\| `([\w./*-]+)` \| (.*) \|$", PAGE, re.MULTILINE))
PATTERNS = {re.sub(r"\b(SET|HOW|NAME|N)\b|(?<=/)(SET|HOW)(?=_)|(?<=_)HOW(?=_)", "*", name): name for name in ROWS}
BESIDE = {"analysis/*.csv", "analysis/*.json", "analysis/*.png", "analysis/*.npz"}
"""What the text in front of the table of `analyze` has."""


@pytest.fixture(scope="module")
def run(clone) -> Path:
    return clone / "runs" / "smollm2-135m-refuses"


def row_of(name: str) -> str | None:
    found = [given for pattern, given in PATTERNS.items() if fnmatch.fnmatch(name, pattern)]
    return found[0] if found else None


def test_every_file_has_a_row(run):
    files = [str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()]
    left = [name for name in files if not name.startswith((".", "stale/")) and row_of(name) is None]
    assert [name for name in left if not any(fnmatch.fnmatch(name, pattern) for pattern in BESIDE)] == []
    assert len(files) > 30


def test_every_kind_of_file_that_stages_write_has_a_row():
    named = {*PATTERNS, *BESIDE}
    for patterns in FILES.values():
        for pattern in patterns:
            assert any(fnmatch.fnmatch(name, pattern) for name in named), pattern


def test_tables_have_the_columns_that_are_said(run):
    tables = sorted((run / "analysis").glob("*.csv"))
    assert len(tables) == 4
    for path in tables:
        with path.open(encoding="utf-8", newline="") as file:
            header = next(csv.reader(file))
        assert re.findall(r"`(\w+)`", ROWS[f"analysis/{path.name}"])[: len(header)] == header


@pytest.mark.parametrize(
    "name",
    [
        "direction_metadata.json",
        "select_direction/direction_evaluations.json",
        "select_direction/direction_evaluations.meta.json",
        "select_direction/uncertainty.json",
        "completions/harmful_test_ablation_completions.json",
        "completions/harmful_test_comparisons.json",
    ],
)
def test_files_have_the_keys_that_are_said(run, name):
    content = json.loads((run / name).read_text(encoding="utf-8"))
    content = content.get("comparisons", content) if isinstance(content, dict) else content
    keys = set(content[0] if isinstance(content, list) else content) - {"made_from"}
    said = set(re.findall(r"`(\w+)`", ROWS[str(row_of(name))]))
    assert sorted(keys - said) == []
