"""Downloads from a real server that misbehaves: resumed, tried again, checked, whole or not at all."""

import hashlib
import os
from dataclasses import replace

import pytest
from moody_server import IMPATIENT, QUICK

from refusal_lightning.data.download import Unavailable, copy, download

CONTENT = os.urandom(300_000)
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server(tmp_path, serve):
    (tmp_path / "www").mkdir()
    (tmp_path / "www" / "a.bin").write_bytes(CONTENT)
    return serve(tmp_path / "www")


@pytest.fixture
def target(tmp_path):
    return tmp_path / "out" / "a.bin"


def same(path):
    return hashlib.sha256(path.read_bytes()).hexdigest() == DIGEST


def names(target):
    return sorted(path.name for path in target.parent.iterdir())


def test_plain(server, target):
    seen = []
    download(f"{server.url}/a.bin", target, DIGEST, len(CONTENT), QUICK, lambda have, total: seen.append((have, total)))
    assert same(target) and names(target) == ["a.bin"]
    assert seen[-1] == (len(CONTENT), len(CONTENT)) and [h for h, _ in seen] == sorted(h for h, _ in seen)


def test_what_has_come_is_in_the_file_at_once(server, target):
    """A killed process loses none of it."""
    (server.folder / "b.bin").write_bytes(b"12345")
    server.moods["b.bin"] = ["drip"]
    kept = []

    def advance(have, total):
        kept.append((target.parent / ".a.bin.part").stat().st_size == have)

    download(f"{server.url}/b.bin", target, patience=QUICK, advance=advance)
    assert target.read_bytes() == b"12345" and len(kept) > 1 and all(kept)


@pytest.mark.parametrize("mood", ["500", "truncated", "unannounced", "close", "hang"])
def test_one_bad_answer_is_got_over(server, target, mood):
    server.moods["a.bin"] = [mood]
    patience = IMPATIENT if mood == "hang" else QUICK
    download(f"{server.url}/a.bin", target, DIGEST, len(CONTENT), patience)
    assert same(target) and len(server.requests) == 2


def test_many_cuts_that_all_bring_something(server, target):
    """Each answer ends halfway: progress does not use up the tries."""
    server.moods["a.bin"] = ["truncated"] * 6
    download(f"{server.url}/a.bin", target, DIGEST, len(CONTENT), QUICK)
    assert same(target)
    starts = [int(asked[6:-1]) for _, asked in server.requests[1:]]
    assert starts == sorted(set(starts)) and starts[0] == len(CONTENT) // 2


@pytest.mark.parametrize(
    ("mood", "says"),
    [
        ("500", "HTTP 500 Internal Server Error, after 3 tries"),
        ("404", "HTTP 404 Not Found"),
        ("hang", "no answer in 0.4 seconds, after 2 tries"),
        ("drip", "slower than 1000 bytes a second"),
        ("close", "after 3 tries"),
        ("wrong", "another content than expected (27 bytes"),
        ("other_length", "another content than expected (300000 bytes"),
        ("endless", "another content than expected"),
    ],
)
def test_a_server_that_stays_bad(server, target, mood, says):
    server.always["a.bin"] = mood
    patience = IMPATIENT if mood in ("hang", "drip") else QUICK
    with pytest.raises(Unavailable) as error:
        download(f"{server.url}/a.bin", target, DIGEST, len(CONTENT), patience)
    message = str(error.value)
    assert says in message and message.startswith(f"{server.url}/a.bin: ") and "\n" not in message
    assert error.value.works == (mood in ("404", "wrong", "other_length", "endless"))
    assert not target.exists()
    # Then it behaves, and the same call is enough.
    server.always.clear()
    download(f"{server.url}/a.bin", target, DIGEST, len(CONTENT), QUICK)
    assert same(target) and names(target) == ["a.bin"]


def test_the_next_call_asks_for_the_rest_only(server, target):
    server.always["a.bin"] = "truncated"
    with pytest.raises(Unavailable, match="the connection ended after"):
        download(f"{server.url}/a.bin", target, DIGEST, len(CONTENT), replace(QUICK, most_tries=1))
    server.always.clear()
    server.requests.clear()
    download(f"{server.url}/a.bin", target, DIGEST, len(CONTENT), QUICK)
    assert same(target) and server.requests == [("a.bin", f"bytes={len(CONTENT) // 2}-")]


@pytest.mark.parametrize("moods", [["deaf"], ["elsewhere"], []])
def test_a_part_that_cannot_be_continued(server, target, moods):
    """The server ignores the range, continues elsewhere, or the part was of another file: from the start again."""
    target.parent.mkdir()
    (target.parent / ".a.bin.part").write_bytes(CONTENT[:1000] if moods else b"x" * 1000)
    server.moods["a.bin"] = moods
    download(f"{server.url}/a.bin", target, DIGEST, len(CONTENT), QUICK)
    assert same(target) and names(target) == ["a.bin"]


def test_a_rest_from_elsewhere_is_not_taken_where_no_digest_is_known(server, target):
    target.parent.mkdir()
    (target.parent / ".a.bin.part").write_bytes(CONTENT[:1000])
    server.moods["a.bin"] = ["elsewhere"]
    download(f"{server.url}/a.bin", target, patience=QUICK)
    assert same(target)


@pytest.mark.parametrize("whole", [True, False])
def test_a_part_as_long_as_the_file(server, target, whole):
    target.parent.mkdir()
    (target.parent / ".a.bin.part").write_bytes(CONTENT if whole else b"x" * len(CONTENT))
    download(f"{server.url}/a.bin", target, DIGEST, len(CONTENT), QUICK)
    assert same(target) and names(target) == ["a.bin"]
    assert len(server.requests) == (0 if whole else 2)


def test_no_server(target, server):
    server.stop()
    with pytest.raises(Unavailable, match="refused"):
        download(f"{server.url}/a.bin", target, DIGEST, len(CONTENT), QUICK)


def test_copy(tmp_path, target):
    origin = tmp_path / "b.bin"
    with pytest.raises(Unavailable, match="no such file"):
        copy(origin, target, DIGEST)
    origin.write_bytes(b"other")
    with pytest.raises(Unavailable, match="another content than expected"):
        copy(origin, target, DIGEST)
    assert names(target) == []
    origin.write_bytes(CONTENT)
    copy(origin, target, DIGEST)
    assert same(target) and names(target) == ["a.bin"]
