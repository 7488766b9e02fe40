"""Refusal tokens that nobody named, found from stored logits."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from refusal_lightning.errors import UserError
from refusal_lightning.inputs.prompts import PromptSet
from refusal_lightning.inputs.refusal_tokens import find_refusal_tokens
from refusal_lightning.models import load_chat_model


class StoredLogits:
    """What a store holds of the baseline: here, logits made up."""

    def __init__(self, logits: dict[str, np.ndarray]) -> None:
        self.logits = logits
        self.layout = SimpleNamespace(vocab_size=len(next(iter(logits.values()))))

    def rows(self, hashes: list[str]) -> np.ndarray:
        return np.array(hashes)

    def read(self, array: str, rows: np.ndarray) -> np.ndarray:
        assert array == "next_token_logits"
        return np.stack([self.logits[row] for row in rows])


def planted(vocab: int, harmful: dict[int, float], harmless: dict[int, float], count: int = 70) -> Any:
    logits, sets = {}, []
    for name, likely in (("harmful_train", harmful), ("harmless_train", harmless)):
        hashes = [f"{name} {i}" for i in range(count)]
        for prompt in hashes:
            logits[prompt] = np.zeros(vocab, dtype=np.float32)
            for token, value in likely.items():
                logits[prompt][token] = value
        sets.append(PromptSet(name, hashes, [[0]] * count, hashes))
    return StoredLogits(logits), *sets


@pytest.fixture(autouse=True)
def all_is_said(caplog):
    caplog.set_level(logging.INFO, "refusal_lightning")


@pytest.fixture
def chat(tiny_llama_folder: Path):
    return load_chat_model(str(tiny_llama_folder))


def test_found_shown_and_recorded(chat, caplog):
    token = chat.tokenizer.convert_tokens_to_ids("I")
    store, harmful, harmless = planted(chat.vocab_size, {token: 8.0, 20: 6.0}, {30: 8.0, 20: 6.0})
    found = find_refusal_tokens(chat, store, harmful, harmless)
    assert found.ids == [token] == [row["token"] for row in found.rows] and found.rows[0]["text"] == "I"
    assert found.rows[0]["harmful"] > 0.5 > 0.01 > found.rows[0]["harmless"]
    assert chat.refusal_ids == []  # what is given is not changed
    said = caplog.text
    assert "'I' (7" in said and "harmful_train" in said and "WARNING" not in said


def test_named_tokens_stay_and_get_their_probabilities(tiny_llama_folder, caplog):
    chat = load_chat_model(str(tiny_llama_folder), refusal_tokens=[50, 51])
    store, harmful, harmless = planted(chat.vocab_size, {49: 5.0, 50: 8.0}, {})
    found = find_refusal_tokens(chat, store, harmful, harmless)
    assert found.ids == [50, 51] == [row["token"] for row in found.rows]
    assert found.rows[0]["harmful"] > 10 * found.rows[1]["harmful"]
    assert caplog.text == ""


def test_tokens_that_begin_few_answers_are_said(tiny_llama_folder, caplog):
    chat = load_chat_model(str(tiny_llama_folder), refusal_tokens=[50])
    find_refusal_tokens(chat, *planted(chat.vocab_size, {49: 8.0, 50: 7.0}, {}))
    assert "the refusal tokens have 2" in caplog.text


def test_none_found(chat):
    store, harmful, harmless = planted(chat.vocab_size, {30: 8.0}, {30: 8.0})
    with pytest.raises(UserError, match=r"no first token is much likelier on harmful_train than on harmless_train"):
        find_refusal_tokens(chat, store, harmful, harmless)


def test_a_thought_is_said(chat, caplog, monkeypatch):
    store, harmful, harmless = planted(chat.vocab_size, {30: 8.0}, {})
    decode = chat.tokenizer.decode
    monkeypatch.setattr(chat.tokenizer, "decode", lambda ids: "<think>" if ids == [30] else decode(ids))
    find_refusal_tokens(chat, store, harmful, harmless)
    assert "starts with '<think>'" in caplog.text
