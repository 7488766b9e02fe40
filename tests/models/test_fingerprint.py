"""What a model is: the digest of its weight files, remembered where that can be trusted."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from refusal_lightning.models import fingerprint


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv(fingerprint.CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache" / "digests"


def _weights(folder: Path, content: bytes) -> Path:
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(content)
    return folder


@pytest.mark.parametrize("left", [b"", b"\n", b"0" * 63, b"\xff\xfe", b"G" * 64])
def test_a_note_that_a_power_loss_left_is_not_believed(cache, tmp_path, left):
    one, other = (_weights(tmp_path / name, name.encode()) for name in ("one", "other"))
    digests = [fingerprint.weights_digest(folder) for folder in (one, other)]
    notes = list(cache.iterdir())
    assert len(notes) == 2 and digests[0] != digests[1]
    for note in notes:
        note.write_bytes(left)
    assert [fingerprint.weights_digest(folder) for folder in (one, other)] == digests
    assert sorted(note.read_text() for note in cache.iterdir()) == sorted(
        fingerprint.file_digest(folder / "model.safetensors") for folder in (one, other)
    )


def test_a_note_is_on_the_disk_before_it_has_its_name(cache, tmp_path, monkeypatch):
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(Path(f"/proc/self/fd/{fd}").readlink().name))
    fingerprint.weights_digest(_weights(tmp_path / "one", b"1"))
    (note,) = cache.iterdir()
    assert len(synced) == 2 and synced[0].startswith(f".{note.name}.") and synced[1] == cache.name
