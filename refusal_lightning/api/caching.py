"""``rl.cache``: activations of prompts, once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refusal_lightning.api.model import Model
from refusal_lightning.api.prompts import Prompts, data_of_lists, data_section
from refusal_lightning.api.settings import divided, keys_of, section
from refusal_lightning.config import CacheConfig, DataConfig, StoreConfig
from refusal_lightning.errors import UserError
from refusal_lightning.inputs.prompts import PromptSet
from refusal_lightning.stages.cache.inputs import CacheInputs
from refusal_lightning.stages.cache.stage import CacheResult, announce, cache_activations, tell
from refusal_lightning.store import ActivationStore

_DATA = ("n_train", "n_val", "seed", "labels")
_STORE = ("compression", "shard_mb", "options")


@dataclass(frozen=True, eq=False)
class Cached:
    """Prompts whose activations are stored: what ``rl.cache`` gives, and ``rl.select`` and ``rl.analyze`` take."""

    store: ActivationStore
    """The activations: ``store["resid_pre"]`` is ``[prompt, layer, position, d_model]``, ``store.prompts`` says which
    row is which prompt."""
    sets: Mapping[str, PromptSet]
    """The prompts by role, ``harmful_train``, ``harmless_train``, ``harmful_val``, ``harmless_val``, and further sets
    by name, each in the order drawn."""
    result: CacheResult
    """How many prompts were computed now, in how many seconds."""
    data: DataConfig
    """The data section that the prompts are drawn by."""
    store_config: StoreConfig
    """Where the store is, and how it is kept."""
    cache_config: CacheConfig
    """What is kept of each prompt."""


def cache(
    model: Model,
    harmful: Prompts | None = None,
    harmless: Prompts | None = None,
    *,
    data: DataConfig | Mapping[str, Any] | None = None,
    store: str | Path = "memory://",
    **settings: Any,
) -> Cached:
    """Run prompts through the model once and keep their activations. What the store has is not computed again.

    ``harmful`` and ``harmless`` are lists of instructions: texts, or ``{"instruction": ..., "category": ...}``. Each is
    shuffled by the seed; the first ``n_train`` make the direction, the next ``n_val`` choose it (a list that is too
    short for the defaults, 128 and 32, is divided 4 to 1). ``{"train": [...], "val": [...]}`` keeps two
    lists apart, and draws from each as the command line draws from its files. In place of both, ``data`` is a
    configuration's data section (``DataConfig`` or a mapping of its keys).

    ``store`` is where the activations go: ``"memory://"`` keeps them as long as Python runs, a folder or a URL
    (``s3://...``) for good. The store's name in there follows from the model and from what is kept.

    ``settings`` are ``n_train``, ``n_val``, ``seed`` and ``labels`` of the data section (with lists), and the keys of
    the sections cache (``hook_points``, ``positions``, ``layers``, ``batch_size``, ``datasets``) and store
    (``compression``, ``shard_mb``, ``options``). Raises UserError.
    """
    model.require_plain("cache")
    parts = divided(settings, {"data": _DATA, "cache": keys_of(CacheConfig), "store": _STORE})
    data_config = _data(harmful, harmless, data, parts["data"])
    store_config = section(StoreConfig, {"root": str(store), **parts["store"]}, "store")
    cache_config = section(CacheConfig, parts["cache"], "cache")
    inputs = CacheInputs.open(model.chat, data_config, store_config, cache_config)
    announce(inputs)
    result = cache_activations(inputs, model.trainer, cache_config.batch_size)
    tell(result)
    return Cached(inputs.store, inputs.sets, result, data_config, store_config, cache_config)


def _data(
    harmful: Prompts | None,
    harmless: Prompts | None,
    data: DataConfig | Mapping[str, Any] | None,
    given: Mapping[str, Any],
) -> DataConfig:
    if harmful is None and harmless is None:
        if given and data is not None:
            raise UserError(f"{', '.join(given)} beside data: put them into it")
        return data_section(given if data is None else data)
    if harmful is None or harmless is None or data is not None:
        raise UserError("give harmful and harmless, both of them lists, or data")
    return data_of_lists(harmful, harmless, given)
