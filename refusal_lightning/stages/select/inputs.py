"""What every estimator's selection starts from: the model, the store, and the prompts that pass the filter."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Any

from refusal_lightning.config import CacheConfig, DataConfig, SelectConfig, StoreConfig
from refusal_lightning.directions.estimators.registry import ESTIMATORS
from refusal_lightning.distributed.process_group import require_same_on_all_ranks
from refusal_lightning.errors import UserError
from refusal_lightning.inputs.activations import require_candidates
from refusal_lightning.inputs.drawing import drawn_sets
from refusal_lightning.inputs.prompts import Filtered
from refusal_lightning.inputs.stored_prompts import StoredPrompts
from refusal_lightning.io.hashing import digest
from refusal_lightning.models import ChatModel
from refusal_lightning.store import ActivationStore

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SelectionInputs:
    """The model (without its weights), a store that has all prompts, and the prompts themselves."""

    chat: ChatModel
    store: ActivationStore
    kept: dict[str, Filtered]
    """The prompts by role, e.g. ``harmful_val``, after the filter."""
    refusal_tokens: list[dict[str, Any]]
    """Each with its mean probabilities as the answer's first (see ``inputs.refusal_tokens``)."""
    data: DataConfig

    @classmethod
    def open(
        cls,
        chat: ChatModel,
        data: DataConfig,
        store: StoreConfig,
        cache: CacheConfig,
        select: SelectConfig,
    ) -> SelectionInputs:
        """Draw and filter the prompts by the stored baseline. No weights are loaded, nothing is written.

        Raises UserError where the store lacks some, the filter leaves none, or processes of one run see different ones.
        """
        require_settings(chat, cache, select)
        sets = drawn_sets(chat, data)
        prompts = digest([s.hashes for s in sets.values()])
        require_same_on_all_ranks({"model": digest(chat.identity), "prompts": prompts})
        stored = StoredPrompts.open(chat, sets, store, cache)
        # By reading alone: it may be a store that nobody here may write.
        require_same_on_all_ranks({"store": digest(stored.store.manifest)})
        kept = stored.kept(select)
        counts = ", ".join(f"{f.prompts.name} {len(f.prompts)} of {f.drawn}" for f in kept.sets.values())
        log.info(f"select: prompts kept {counts}")
        chat = replace(chat, refusal_ids=kept.refusal_tokens.ids)
        return cls(chat, stored.store, kept.sets, kept.refusal_tokens.rows, data)

    @property
    def baseline(self) -> dict[str, float]:
        """Mean refusal scores of the validation prompts, ``harmful`` and ``harmless``."""
        return {kind: float(self.kept[f"{kind}_val"].scores.mean()) for kind in ("harmful", "harmless")}


def require_settings(chat: ChatModel, cache: CacheConfig, select: SelectConfig) -> None:
    """Raise UserError where the configuration asks for what cannot be chosen among this model's candidates."""
    ESTIMATORS.require(select.estimators, "select.estimators")
    _require_place(select, chat)
    require_candidates(chat, cache)


def _require_place(config: SelectConfig, chat: ChatModel) -> None:
    """Raise UserError where the candidate that is chosen by hand is none of the model's."""
    if config.position is None or config.layer is None:
        return
    if -config.position > chat.n_positions or config.layer >= chat.n_layers:
        raise UserError(
            f"select.position {config.position}, select.layer {config.layer} is no candidate: {chat.alias} has "
            f"positions {-chat.n_positions} to -1 and layers 0 to {chat.n_layers - 1}"
        )
