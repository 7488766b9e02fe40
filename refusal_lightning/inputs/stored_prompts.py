"""The drawn prompts and the store that holds them: what `select` and `analyze` both begin with."""

from __future__ import annotations

from dataclasses import dataclass, replace

from refusal_lightning.config import CacheConfig, SelectConfig, StoreConfig
from refusal_lightning.inputs.activations import open_store_with, require_candidates
from refusal_lightning.inputs.prompt_filter import filter_prompts
from refusal_lightning.inputs.prompts import Filtered, PromptSet
from refusal_lightning.inputs.refusal_tokens import RefusalTokens, find_refusal_tokens
from refusal_lightning.models import ChatModel
from refusal_lightning.store import ActivationStore


@dataclass(frozen=True)
class KeptPrompts:
    """The prompts that the filter keeps, and the refusal tokens that it goes by."""

    sets: dict[str, Filtered]
    """By role, e.g. ``harmful_val``."""
    refusal_tokens: RefusalTokens


@dataclass(frozen=True)
class StoredPrompts:
    """The drawn prompts, and the store that has all of them as the candidates need them."""

    chat: ChatModel
    sets: dict[str, PromptSet]
    """By role, e.g. ``harmful_val``."""
    store: ActivationStore

    @classmethod
    def open(cls, chat: ChatModel, sets: dict[str, PromptSet], store: StoreConfig, cache: CacheConfig) -> StoredPrompts:
        """Open the store. Raises UserError where it is not there, lacks prompts, or holds less than candidates need."""
        require_candidates(chat, cache)
        opened = open_store_with(chat, store, cache, [h for s in sets.values() for h in s.hashes])
        return cls(chat, sets, opened)

    def kept(self, config: SelectConfig) -> KeptPrompts:
        """Find the refusal tokens and filter by them, both by the stored baseline. Raises UserError."""
        tokens = find_refusal_tokens(self.chat, self.store, self.sets["harmful_train"], self.sets["harmless_train"])
        chat = replace(self.chat, refusal_ids=tokens.ids)
        return KeptPrompts(filter_prompts(self.store, chat, self.sets, config), tokens)
