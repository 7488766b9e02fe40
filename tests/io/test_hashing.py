"""Hashes are those that stores, journals and runs are named by: another value would lose them all."""

from __future__ import annotations

from refusal_lightning.io.hashing import digest, file_digest, sha256_of


def test_the_values_that_stand_in_files(tmp_path):
    abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2
    assert sha256_of("abc") == sha256_of(b"abc") == abc
    assert sha256_of("\u00e9") == sha256_of("\u00e9".encode())
    (tmp_path / "file").write_bytes(b"abc")
    assert file_digest(tmp_path / "file") == abc
    assert digest({"b": [1, 2.5, None], "a": "\u00e9"}) == digest({"a": "\u00e9", "b": [1, 2.5, None]})
    assert digest({"b": [1, 2.5, None], "a": "\u00e9"}) == sha256_of('{"a": "\\u00e9", "b": [1, 2.5, null]}')[:16]
