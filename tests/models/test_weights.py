"""Copies of a chat model have one copy of its weights in memory."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest
import torch

from refusal_lightning.models import ChatModel, load_chat_model, weights


@pytest.fixture
def chat(tiny_llama_folder) -> ChatModel:
    return load_chat_model(str(tiny_llama_folder))


@pytest.fixture
def loads(monkeypatch) -> list[str]:
    """The dtypes of what was loaded."""
    loaded = []
    load = weights.load_bridge

    def noted(checkpoint, device):
        loaded.append(checkpoint.dtype)
        return load(checkpoint, device)

    monkeypatch.setattr(weights, "load_bridge", noted)
    return loaded


def test_a_copy_does_not_load_again(chat, loads):
    copy = replace(chat, refusal_ids=[7], stop_ids=[])
    assert not loads
    assert copy.engine("cpu") is chat.engine("cpu")
    assert chat.fast_engine("cpu") is copy.fast_engine("cpu")
    assert loads == ["float32"]


def test_released_by_one_is_released_for_all(chat, loads):
    copy = replace(chat, refusal_ids=[7])
    before = chat.engine("cpu")
    copy.release()
    assert chat.engine("cpu") is not before
    assert loads == ["float32"] * 2


def test_another_dtype_has_weights_of_its_own(chat, loads):
    half = chat.in_dtype("bfloat16")
    assert (half.dtype, half.identity["dtype"], chat.dtype) == ("bfloat16", "bfloat16", "float32")
    assert next(half.engine("cpu").model.parameters()).dtype == torch.bfloat16
    assert next(chat.engine("cpu").model.parameters()).dtype == torch.float32
    half.release()
    chat.engine("cpu")
    assert loads == ["bfloat16", "float32"]


def test_nothing_is_changed_behind_its_back(chat):
    field: Any
    for field in ("refusal_ids", "stop_ids", "weights"):
        with pytest.raises(FrozenInstanceError):
            setattr(chat, field, [])
