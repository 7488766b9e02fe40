"""Every architecture that TransformerLens boots is exact, or refused by name: the table of docs/models.md is true."""

from __future__ import annotations

import pytest
from architectures import NOT_BUILT, TINY
from table import BEGIN, DOCS, END, read, rendered, verdict
from transformer_lens.factories.architecture_adapter_factory import SUPPORTED_ARCHITECTURES


def test_every_architecture_has_its_place():
    """One that a new TransformerLens brings goes into one of the tables of architectures.py."""
    assert set(SUPPORTED_ARCHITECTURES) == TINY.keys() | NOT_BUILT.keys()
    assert not TINY.keys() & NOT_BUILT.keys()
    assert len(TINY) >= 50


def test_the_table_is_that_of_the_docs():
    """Run ``python tests/zoo/table.py`` after a change."""
    verdicts = read()
    assert verdicts.keys() == TINY.keys()
    assert rendered(verdicts) in DOCS.read_text(encoding="utf-8")
    assert BEGIN in DOCS.read_text(encoding="utf-8") and END in DOCS.read_text(encoding="utf-8")
    assert all(words.startswith(("exact", "refused: ")) for words in verdicts.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(TINY))
def test_what_holds(name, tmp_path):
    assert verdict(name, tmp_path / name) == read()[name]
