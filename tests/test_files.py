"""Files that are there whole or not at all, in folders that several processes use at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from refusal_lightning.files import writable_folder, write_bytes


def test_processes_of_one_number_do_not_trip_over_each_other(tmp_path: Path) -> None:
    """In containers on several nodes every process may be number 1; so are threads here."""
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: writable_folder(tmp_path, "runs.root"), range(400)))
        list(threads.map(lambda i: write_bytes(tmp_path / "file", str(i).encode()), range(100)))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
