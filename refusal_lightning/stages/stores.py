"""Which store belongs to a model: its place follows from what its activations depend on."""

from __future__ import annotations

from collections.abc import Sequence

from refusal_lightning.config import StoreConfig
from refusal_lightning.errors import UserError
from refusal_lightning.models import ChatModel
from refusal_lightning.stages.files import digest
from refusal_lightning.store import ActivationStore, Encoding, Layout


def store_url(model: ChatModel, config: StoreConfig) -> str:
    """Where the model's store is: ``ROOT/ALIAS-HASH.zarr``, the hash over the model's identity."""
    return f"{config.root.rstrip('/')}/{model.alias}-{digest(model.identity)}.zarr"


def store_layout(model: ChatModel, hook_points: Sequence[str]) -> Layout:
    """What is stored per prompt: hook points of all layers at the eoi positions, and the next-token logits."""
    return Layout(
        hook_points=tuple(hook_points),
        layers=tuple(range(model.n_layers)),
        positions=tuple(range(-model.n_positions, 0)),
        d_model=model.d_model,
        vocab_size=model.vocab_size,
        dtype=model.dtype,  # type: ignore[arg-type]
    )


def store_encoding(config: StoreConfig) -> Encoding:
    """How arrays are kept."""
    shard_bytes = None if config.shard_mb is None else int(config.shard_mb * 1e6)
    return Encoding(compression=config.compression, shard_bytes=shard_bytes)


def open_complete(model: ChatModel, config: StoreConfig, hashes: Sequence[str]) -> ActivationStore:
    """The model's store, when it holds all these prompts; raises UserError that says to run `cache` otherwise."""
    url = store_url(model, config)
    if not ActivationStore.exists(url):
        raise UserError(f"there is no activation store {url}; run `cache` with the same configuration first")
    store = ActivationStore.open(url)
    lacking = store.lacking(hashes)
    if lacking:
        raise UserError(
            f"{len(lacking)} of {len(set(hashes))} prompts are not in {url}; run `cache` with the same configuration "
            "first (it continues where it stopped)"
        )
    return store
