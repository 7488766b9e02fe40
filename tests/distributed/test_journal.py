"""The journal survives a kill at any byte."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refusal_lightning.distributed.journal import Journal


def test_several_processes(tmp_path):
    journal = Journal(tmp_path / "j")
    assert list(journal) == []
    for rank in (1, 0):
        with journal.open(rank) as file:
            file.write(json.dumps({"rank": rank}) + "\n")
    assert list(journal) == [{"rank": 0}, {"rank": 1}]
    journal.remove()
    assert not journal.folder.exists()


@given(st.lists(st.floats(), min_size=1, max_size=5), st.data())
def test_a_cut_line_is_as_if_never_written(tmp_path_factory, values, data):
    journal = Journal(tmp_path_factory.mktemp("j"))
    lines = [json.dumps({"n": i, "x": x}) + "\n" for i, x in enumerate(values)]
    content = "".join(lines).encode()
    cut = data.draw(st.integers(0, len(content)))
    path = journal.folder / "rank0.jsonl"
    path.write_bytes(content[:cut])
    whole = content[:cut].count(b"\n")
    assert [record["n"] for record in journal] == list(range(whole))
    with journal.open(0) as file:  # continuing removes the cut line and nothing else
        file.write(json.dumps({"n": "next"}) + "\n")
    assert [record["n"] for record in journal] == [*range(whole), "next"]


@given(st.floats())
def test_floats_come_back_to_the_bit(tmp_path_factory, value):
    journal = Journal(tmp_path_factory.mktemp("j"))
    with journal.open(0) as file:
        file.write(json.dumps({"x": value}) + "\n")
    (record,) = journal
    assert repr(record["x"]) == repr(value)


def test_a_full_disk_leaves_whole_records_and_a_closed_file(small_disk):
    """The error names the file; what was written before is there, and nothing is said twice."""
    from types import SimpleNamespace

    from refusal_lightning.distributed.journal_writer import JournalWriter

    writer = JournalWriter(Journal(small_disk / "journal"), lambda prediction: [{"text": prediction}])
    trainer, module = SimpleNamespace(global_rank=0), SimpleNamespace()
    with pytest.raises(OSError, match="No space left on device") as caught:
        for _ in range(100):
            writer.write_on_batch_end(trainer, module, "x" * 100_000, None, None, 0, 0)  # type: ignore[arg-type]
    assert caught.value.filename == str(small_disk / "journal" / "rank0.jsonl")
    file = writer._file
    writer.on_exception(trainer, module, caught.value)  # type: ignore[arg-type]
    assert file is not None and file.closed and writer._file is None
    records = list(writer.journal)
    assert len(records) > 20 and {record["text"] for record in records} == {"x" * 100_000}


def test_a_new_file_s_name_is_durable(tmp_path, monkeypatch):
    """Its folder is synced when it is made, and not for each record, nor when a file is gone on with."""
    synced: list[Path] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(Path(f"/proc/self/fd/{fd}").readlink()))
    journal = Journal(tmp_path / "journal")
    journal.open(0).close()
    assert synced == [tmp_path / "journal", tmp_path]
    journal.open(0).close()
    assert len(synced) == 2
