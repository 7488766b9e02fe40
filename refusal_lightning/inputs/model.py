"""The model of a run, and what is to be said about it at once."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, replace

from refusal_lightning.config import ModelConfig, TrainerConfig
from refusal_lightning.io.hashing import digest
from refusal_lightning.models import ChatModel, load_chat_model
from refusal_lightning.models.template import writes_date

log = logging.getLogger(__name__)

_kept: ContextVar[dict[str, ChatModel] | None] = ContextVar("kept", default=None)
"""Models by what opened them, while they are kept."""


@contextmanager
def models_kept() -> Iterator[None]:
    """In the body a model that is opened again is the one that was opened before, with its weights if it has them.

    They are let go of at the end.
    """
    kept: dict[str, ChatModel] = {}
    token = _kept.set(kept)
    try:
        yield
    finally:
        release_models()
        _kept.reset(token)


def release_models() -> None:
    """Let go of the weights of all models that are kept; they are loaded again when they are next asked for."""
    for chat in (_kept.get() or {}).values():
        chat.release()


def open_model(config: ModelConfig, trainer: TrainerConfig | None = None) -> ChatModel:
    """The configured chat model, without its weights, spread over a process's devices where the trainer says so.

    Within ``models_kept`` the same one for the same arguments, with its weights where they were loaded. Raises
    UserError.
    """
    if trainer is not None and trainer.strategy == "device_map" and config.device_map is None:
        config = replace(config, device_map={"": "cpu"} if trainer.accelerator == "cpu" else "auto")
    kept, key = _kept.get(), digest(asdict(config))
    if kept is not None and key in kept:
        return kept[key]
    chat = load_chat_model(**asdict(config))
    if kept is not None:
        kept[key] = chat
    if chat.thinks:
        log.warning(
            f"the prompts of {chat.alias} end in an open thought, so the first token is not the answer's and "
            "first-token scores say nothing about refusal. Close it with model.answer_prefix, such as "
            '"\\n</think>\\n\\n"'
        )
    if writes_date(chat.template, chat.tokenizer):
        log.warning(
            f"the chat template of {chat.alias} writes today's date into every prompt, so on another day "
            "nothing that is stored fits and all is computed again; name a family, or fix the date by "
            "model.template_options"
        )
    return chat
