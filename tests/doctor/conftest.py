"""One sound patient per architecture, and a fresh copy of it for every test."""

from __future__ import annotations

import pytest
from patients import material, sound

from refusal_lightning.doctor import CheckContext
from refusal_lightning.models import ChatModel


@pytest.fixture(scope="session")
def healthy(tiny_folder):
    made: dict[str, ChatModel] = {}

    def chat(arch: str) -> ChatModel:
        if arch not in made:
            made[arch] = sound(tiny_folder(arch)).chat
        return made[arch]

    return chat


@pytest.fixture
def patient(healthy):
    """``patient(arch)``: a sound model of its own for this test."""

    def fresh(arch: str = "llama") -> CheckContext:
        return material(healthy(arch))

    return fresh
