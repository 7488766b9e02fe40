"""Files that are there whole or not at all, in folders that several processes use at once."""

from __future__ import annotations

import csv
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from refusal_lightning.io.files import replacing, writable_folder, write_bytes, write_text
from refusal_lightning.io.serialization import write_json, write_table


def test_processes_of_one_number_do_not_trip_over_each_other(tmp_path: Path) -> None:
    """In containers on several nodes every process may be number 1; so are threads here."""
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: writable_folder(tmp_path, "runs.root"), range(400)))
        list(threads.map(lambda i: write_bytes(tmp_path / "file", str(i).encode()), range(100)))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_no_text_makes_a_result_unwritable(tmp_path: Path) -> None:
    """A lone surrogate, such as a byte of the command line that is no UTF-8, is spelled out."""
    text = os.fsdecode(b"mod\xe8le") + " \\ \ud83d, whole: \U0001f535"
    write_text(tmp_path / "page.html", text)
    assert "mod\\udce8le" in (tmp_path / "page.html").read_text(encoding="utf-8")
    write_json(tmp_path / "run.json", {text: [text]})
    assert json.loads((tmp_path / "run.json").read_text(encoding="utf-8")) == {text: [text]}
    write_table(tmp_path / "table.csv", [{"name": text}])
    assert "\\ud83d" in (tmp_path / "table.csv").read_text(encoding="utf-8")


def test_what_fails_half_way_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    write_bytes(tmp_path / "file", b"old")
    with pytest.raises(RuntimeError, match="half way"), replacing(tmp_path / "file") as file:
        file.write(b"new")
        assert len(list(tmp_path.iterdir())) == 2
        raise RuntimeError("half way")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == b"old"
    with replacing(tmp_path / "file", tmp_path / "part") as file:
        file.write(b"new")
        assert (tmp_path / "part").exists() and (tmp_path / "file").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == b"new"


def test_a_new_name_is_in_its_folder_after_a_power_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[bool] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(Path(f"/proc/self/fd/{fd}").is_dir()))
    write_bytes(tmp_path / "file", b"")
    assert synced == [False, True]


def test_a_text_in_a_table_is_no_formula(tmp_path):
    """Spreadsheets run what begins as a formula does; numbers stay numbers."""
    texts = ["=cmd|' /C calc'!A0", "+1", "-1", "@SUM(A1)", "\t=1", "plain", "a=b"]
    write_table(tmp_path / "table.csv", [{"set": text, "value": -1.5} for text in texts])
    with (tmp_path / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["set"] for row in rows] == [*(f"'{text}" for text in texts[:5]), "plain", "a=b"]
    assert {row["value"] for row in rows} == {"-1.5"}
