"""The model of a run, and what is to be said about it at once."""

from __future__ import annotations

from dataclasses import asdict

from refusal_lightning.config import ModelConfig
from refusal_lightning.models import ChatModel, load_chat_model
from refusal_lightning.stages.console import say


def open_model(config: ModelConfig) -> ChatModel:
    """The configured chat model, without its weights. Raises UserError."""
    chat = load_chat_model(**asdict(config))
    if chat.thinks:
        say(
            f"warning: the prompts of {chat.alias} end in an open thought, so the first token is not the answer's and "
            "first-token scores say nothing about refusal. Close it with model.answer_prefix, such as "
            '"\\n</think>\\n\\n"'
        )
    return chat
