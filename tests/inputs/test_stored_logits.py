"""Stored logits in pieces are the whole's, to the bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from generated_store import GeneratedStore

from refusal_lightning.directions.metrics.refusal_score import refusal_scores
from refusal_lightning.directions.selection.bounds import kl_lower_bounds
from refusal_lightning.inputs import stored_logits
from refusal_lightning.inputs.stored_logits import StoredLogits


@pytest.fixture
def logits(monkeypatch) -> tuple[StoredLogits, torch.Tensor]:
    """Seven prompts' in any order, one of them twice, read three at a time, and the same as a whole."""
    store: Any = GeneratedStore([f"harmful {i}" for i in range(20)], 1, 1, 2, 101)
    monkeypatch.setattr(stored_logits, "PIECE_BYTES", 3 * 4 * 101)
    rows = [11, 3, 19, 0, 3, 14, 7]
    whole = torch.from_numpy(np.concatenate([store.read("next_token_logits", np.array([row])) for row in rows]))
    return StoredLogits(store, [f"harmful {row}" for row in rows]), whole


@pytest.mark.parametrize("of", [kl_lower_bounds, lambda piece: refusal_scores(piece, [7, 3])])
def test_pieces_give_what_the_whole_gives_to_the_bit(logits, of):
    pieces, whole = logits
    np.testing.assert_array_equal(pieces.each(of), of(whole).numpy())
    assert pieces._store.largest == 3 * 4 * 101


@pytest.mark.parametrize("kept", [10**6, 0])
def test_rows_read_when_asked_for(logits, monkeypatch, kept):
    pieces, whole = logits
    monkeypatch.setattr(stored_logits, "KEPT_BYTES", kept)
    assert torch.equal(pieces[[5, 0, 4]], whole[[5, 0, 4]]) and torch.equal(pieces[[1]], whole[[1]])
    assert pieces._store.largest == (7 if kept else 3) * 4 * 101
    assert torch.equal(torch.cat(list(pieces.pieces(2))), whole)
