"""Tests of the store do not wait for the disk: what fsync is for shows in no test but the one that counts its calls."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def no_waiting() -> Iterator[None]:
    patch = pytest.MonkeyPatch()
    patch.setattr(os, "fsync", lambda fd: None)
    yield
    patch.undo()


@pytest.fixture
def format_1(tmp_path) -> Path:
    """A folder with two stores of format 1, `eoi` and `all`, as the package made them: 20 prompts, a shard pending."""
    with zipfile.ZipFile(Path(__file__).with_name("format1.zip")) as archive:
        archive.extractall(tmp_path / "format 1")
    return tmp_path / "format 1"
