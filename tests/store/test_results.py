"""Derived results: exact, replaced as a whole, never seen half."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from stores import filled, make

from refusal_lightning.errors import UserError
from refusal_lightning.store.backend.local import LocalBackend


def test_bit_for_bit(tmp_path):
    store = make(tmp_path / "s")
    arrays = {
        "scores": np.array([[0.1, np.nan, np.inf], [-np.inf, -0.0, 5e-324]]),
        "zeros": np.zeros((2, 3)),
        "negative_zeros": -np.zeros(3),
        "done": np.array([True, False]),
        "counts": np.array(7, dtype=np.int32),
        "none": np.zeros((0, 4), dtype=np.float32),
        "single": np.arange(6, dtype=np.float32).reshape(1, 2, 3),
    }
    store.save_result("scores-1", arrays, {"harmful": ["a"], "threshold": 0.1})
    loaded = make(tmp_path / "s").load_result("scores-1")
    assert loaded is not None
    assert loaded[1] == {"harmful": ["a"], "threshold": 0.1}
    for name, array in arrays.items():
        assert loaded[0][name].dtype == array.dtype and loaded[0][name].shape == array.shape
        assert loaded[0][name].tobytes() == array.tobytes(), name


def test_replaced(tmp_path):
    store = filled(tmp_path / "s", range(3))
    assert store.load_result("a") is None and store.results() == []
    store.save_result("a", {"x": np.ones(2)}, {})
    store.save_result("b", {"x": np.ones(2)}, {})
    store.save_result("a", {"y": np.zeros(3)}, {"n": 2})
    arrays, attrs = store.load_result("a") or ({}, {})
    assert set(arrays) == {"y"} and attrs == {"n": 2}
    assert store.results() == ["a", "b"]
    assert len([p for p in (tmp_path / "s" / "results" / "a").iterdir() if p.is_dir()]) == 1


def test_a_reader_never_sees_half(tmp_path):
    store = make(tmp_path / "s")
    store.save_result("a", {"x": np.zeros(4), "y": np.zeros(4)}, {"n": 0})
    stop = threading.Event()

    def replace() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            store.save_result("a", {"x": np.full(4, number), "y": np.full(4, number)}, {"n": number})

    writer = threading.Thread(target=replace)
    writer.start()
    try:
        for _ in range(30):
            arrays, attrs = store.load_result("a") or ({}, {})
            assert set(arrays["x"]) == set(arrays["y"]) == {attrs["n"]}
    finally:
        stop.set()
        writer.join()


@pytest.mark.parametrize("file", ["x/zarr.json", "x/c.0", "y/zarr.json", "y/c.0"])
def test_replaced_while_it_is_read(file, tmp_path, monkeypatch):
    """The old version is deleted under the reader, right before one of its files: it reads the new one, whole."""
    store = make(tmp_path / "s")
    store.save_result("a", {"x": np.ones(4), "y": np.ones(4)}, {"n": 1})
    read = LocalBackend.read
    replaced: list[str] = []

    def late(backend: LocalBackend, key: str) -> bytes | None:
        if key.endswith(file) and not replaced:
            replaced.append(key)
            store.save_result("a", {"x": np.full(4, 2.0), "y": np.full(4, 2.0)}, {"n": 2})
        return read(backend, key)

    monkeypatch.setattr(LocalBackend, "read", late)
    arrays, attrs = store.load_result("a") or ({}, {})
    assert replaced
    assert set(arrays["x"]) == set(arrays["y"]) == {attrs["n"]} == {2}


def test_names(tmp_path):
    store = make(tmp_path / "s")
    for name in ("a/b", "", "../x", ".hidden"):
        with pytest.raises(UserError, match="a result's name"):
            store.save_result(name, {"x": np.zeros(1)}, {})
