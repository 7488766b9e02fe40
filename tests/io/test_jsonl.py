"""JSON lines that a kill cut short."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from refusal_lightning.io.jsonl import read_records, whole_lines

RECORDS = st.lists(st.dictionaries(st.text(), st.one_of(st.integers(), st.text(), st.none())))


@given(RECORDS, st.data())
def test_a_cut_file_holds_the_records_before_the_cut(records, data):
    lines = [json.dumps(record).encode() + b"\n" for record in records]
    content = b"".join(lines)
    assert list(read_records(content)) == records and whole_lines(content) == content
    cut = content[: data.draw(st.integers(0, len(content)))]
    whole = [record for i, record in enumerate(records) if len(b"".join(lines[: i + 1])) <= len(cut)]
    assert list(read_records(whole_lines(cut))) == whole
    again = list(read_records(cut + b"\n" + content))  # whoever writes on begins a line of its own
    assert again[: len(whole)] == whole and again[len(again) - len(records) :] == records


def test_what_is_no_record_is_left_out():
    deep = b"[" * 100_000
    content = b'{"a": 1}\r\nnonsense\n\n[1]\n"text"\n\xff\n' + deep + b'\n{"a": 2}'
    assert list(read_records(content)) == [{"a": 1}, {"a": 2}]
    assert list(read_records(whole_lines(content))) == [{"a": 1}]
    assert whole_lines(b"") == whole_lines(b"{}") == b""
