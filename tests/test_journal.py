"""The journal survives a kill at any byte."""

import json

from hypothesis import given
from hypothesis import strategies as st

from refusal_lightning.writers.journal import Journal


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
