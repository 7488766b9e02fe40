"""Chat models: loading, families (template, refusal tokens), tokenising. Knows no store and no Trainer."""

from refusal_lightning.models.chat_model import ChatModel, load_chat_model

__all__ = ["ChatModel", "load_chat_model"]
