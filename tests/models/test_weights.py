"""Copies of a chat model have one copy of its weights in memory."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest
import torch

from refusal_lightning.config import ModelConfig
from refusal_lightning.errors import UserError
from refusal_lightning.inputs.model import models_kept, open_model
from refusal_lightning.models import ChatModel, load_chat_model


@pytest.fixture
def chat(tiny_llama_folder) -> ChatModel:
    return load_chat_model(str(tiny_llama_folder))


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


def test_a_guard_comes_before_the_next_use_and_after_every_load(chat):
    calls: list[str] = []

    def guard(name):
        def call(device):
            calls.append(name)
            assert chat.engine(device) is chat.engine(device)  # it may use the weights itself

        return call

    chat.weights.guard_with(guard("first"))
    chat.fast_engine("cpu"), chat.engine("cpu")
    assert calls == ["first"]
    chat.weights.guard_with(guard("second"))
    assert calls == ["first"]
    chat.fast_engine("cpu")  # which is there already
    assert calls == ["first", "second"]
    chat.release()
    chat.engine("cpu")
    assert calls == ["first", "second", "second"]


def test_weights_that_a_guard_refuses_are_let_go(chat, loads):
    def refuse(device):
        raise UserError("no")

    chat.engine("cpu")
    chat.weights.guard_with(refuse)
    for _ in range(2):
        with pytest.raises(UserError):
            chat.fast_engine("cpu")
    assert len(loads) == 2


def test_kept_models_are_opened_once(tiny_llama_folder, loads):
    config = ModelConfig(str(tiny_llama_folder), refusal_tokens=["I"])
    with models_kept():
        chat = open_model(config)
        engine = chat.engine("cpu")
        assert open_model(ModelConfig(str(tiny_llama_folder), refusal_tokens=["I"])) is chat
        assert open_model(ModelConfig(str(tiny_llama_folder), alias="other")) is not chat
        assert open_model(config).engine("cpu") is engine
    assert open_model(config) is not chat
    assert loads == ["float32"]
    assert chat.engine("cpu") is not engine  # it was let go
