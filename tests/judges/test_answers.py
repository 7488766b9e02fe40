"""Answers are on disk at once, survive a cut line, and are keyed by all that they depend on."""

import json
import os
import resource
from pathlib import Path

import pytest

from refusal_lightning.errors import UserError
from refusal_lightning.judges.response_cache import ResponseCache, response_key


def test_answers_are_there_for_the_next_reader_at_once(tmp_path):
    path = tmp_path / "deep" / "answers.jsonl"
    answers = ResponseCache(path)
    assert not path.exists(), "no file where there is nothing to keep"
    for i, text in enumerate(["safe", "un\nsafe", "a\u2028b \U0001f600", ""]):
        answers[f"k{i}"] = text
        assert ResponseCache(path)[f"k{i}"] == text
    assert len(ResponseCache(path)) == 4


def test_an_answer_is_synced_before_the_next_is_asked_for(tmp_path, monkeypatch):
    path, synced = tmp_path / "answers.jsonl", list[bytes]()
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(path.read_bytes()))
    ResponseCache(path)["a"] = "safe"
    assert b"safe" in synced[-1]


@pytest.mark.parametrize("room", range(0, 40, 3))
def test_a_disk_that_takes_part_of_a_line_has_taken_nothing(tmp_path, room):
    """A limit on the file's size: the system writes up to it, says how much, and refuses the rest, as a full disk."""
    path = tmp_path / "answers.jsonl"
    answers = ResponseCache(path)
    answers["a"] = "safe"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + room, before[1]))
    try:
        with pytest.raises(UserError, match=r"cannot be written: .*run again to continue"):
            answers["b"] = "unsafe, and a line that is longer than what there is room for"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert dict(answers) == dict(ResponseCache(path)) == {"a": "safe"}
    answers["c"] = "safe"
    assert dict(ResponseCache(path)) == {"a": "safe", "c": "safe"}


def test_a_new_file_is_in_its_folder_after_a_power_loss(tmp_path, monkeypatch):
    synced = list[bool]()
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(Path(f"/proc/self/fd/{fd}").is_dir()))
    answers = ResponseCache(tmp_path / "answers.jsonl")
    answers["a"] = "safe"
    assert synced == [False, True]
    answers["b"] = "safe"
    assert synced == [False, True, False]


@pytest.mark.parametrize("keep", range(1, 12))
def test_a_cut_line_is_forgotten_and_harms_no_other(tmp_path, keep):
    path = tmp_path / "answers.jsonl"
    answers = ResponseCache(path)
    answers["a"] = "safe"
    whole = path.stat().st_size
    answers["b"] = "unsafe\nS\u00e9"
    path.write_bytes(path.read_bytes()[: whole + keep])
    again = ResponseCache(path)
    assert dict(again) == {"a": "safe"}
    again["c"] = "safe"
    again["d"] = "unsafe"
    assert dict(ResponseCache(path)) == {"a": "safe", "c": "safe", "d": "unsafe"}
    assert len(path.read_bytes().splitlines()) == 4, "only the line after the cut one sets itself apart"


def test_two_writers_do_not_harm_each_other(tmp_path):
    path = tmp_path / "answers.jsonl"
    one, other = ResponseCache(path), ResponseCache(path)
    one["a"], other["b"], one["c"] = "1", "2", "3"
    assert dict(ResponseCache(path)) == {"a": "1", "b": "2", "c": "3"}


def test_foreign_lines_are_passed_over(tmp_path):
    path = tmp_path / "answers.jsonl"
    lines = [
        "null",
        "[1]",
        "{}",
        '{"key": "x"}',
        '{"key": "y", "answer": null}',
        json.dumps({"key": "a", "answer": "b"}),
    ]
    path.write_text("\n".join(lines) + "\n")
    assert dict(ResponseCache(path)) == {"a": "b"}


def test_unreadable_file_is_named(tmp_path):
    with pytest.raises(UserError, match="answers"):
        ResponseCache(tmp_path)


def test_key_depends_on_everything():
    base = response_key(["together", "url", "m", 1], [{"role": "user", "content": "p"}])
    assert base == response_key(["together", "url", "m", 1], [{"role": "user", "content": "p"}])
    others = [
        response_key(["openai", "url", "m", 1], [{"role": "user", "content": "p"}]),
        response_key(["together", "url", "m2", 1], [{"role": "user", "content": "p"}]),
        response_key(["together", "url", "m", 2], [{"role": "user", "content": "p"}]),
        response_key(["together", "url", "m", 1], [{"role": "user", "content": "p "}]),
        response_key(
            ["together", "url", "m", 1], [{"role": "user", "content": "p"}, {"role": "assistant", "content": ""}]
        ),
    ]
    assert len({base, *others}) == 6
