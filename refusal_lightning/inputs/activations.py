"""Which store belongs to a model and to what is cached of it: its place follows from what it holds."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

from refusal_lightning.config import CacheConfig, StoreConfig
from refusal_lightning.data.datasets import ROLES
from refusal_lightning.errors import UserError
from refusal_lightning.inputs.instructions import label_and_split
from refusal_lightning.inputs.prompts import PromptSet
from refusal_lightning.io.hashing import digest
from refusal_lightning.io.versions import other_versions
from refusal_lightning.models import ChatModel
from refusal_lightning.store import ActivationStore, Encoding, Layout, PromptRecord
from refusal_lightning.store.backend.open import join_url, open_backend

log = logging.getLogger(__name__)


def store_url(model: ChatModel, store: StoreConfig, cache: CacheConfig) -> str:
    """Where the store is: ``ROOT/ALIAS-HASH.zarr``, the hash over the model's identity and the layout."""
    made_of = [model.identity, store_layout(model, cache).to_json()]
    return join_url(store.root, f"{model.alias}-{digest(made_of)}.zarr")


def say_other_versions(store: ActivationStore) -> None:
    """Warn where the store's activations were made with other versions than are installed here.

    It is no reason to refuse them: most versions differ by rounding at most, and the record says what made what.
    """
    segments = store.manifest.get("segments", [])
    if others := other_versions(segment.get("made_with", {}).get("packages", {}) for segment in segments):
        log.warning(
            f"{store.url} was made with {others}; if these round or read the model otherwise, its numbers and "
            "this run's are not of one kind. Another store.root makes a new store"
        )


def store_layout(model: ChatModel, cache: CacheConfig) -> Layout:
    """What is stored per prompt: hook points of blocks at positions, and the next-token logits. Raises UserError."""
    layers = tuple(range(model.n_layers)) if cache.layers is None else tuple(cache.layers)
    if layers[-1] >= model.n_layers:
        raise UserError(f"cache.layers names layer {layers[-1]}; {model.alias} has layers 0 to {model.n_layers - 1}")
    last = model.n_positions if cache.positions == "eoi" else cache.positions
    return Layout(
        hook_points=tuple(cache.hook_points),
        layers=layers,
        positions=last if isinstance(last, str) else tuple(range(-last, 0)),
        d_model=model.d_model,
        vocab_size=model.vocab_size,
        dtype=model.dtype,  # type: ignore[arg-type]
    )


def position_tokens(model: ChatModel, layout: Layout) -> list[str] | None:
    """Text of the token at each position; empty where it differs between prompts."""
    if isinstance(layout.positions, str):
        return None
    known = {i - model.n_positions: model.tokenizer.decode([token]) for i, token in enumerate(model.eoi_ids)}
    return [known.get(position, "") for position in layout.positions]


def store_encoding(config: StoreConfig) -> Encoding:
    """How arrays are kept."""
    shard_bytes = None if config.shard_mb is None else int(config.shard_mb * 1e6)
    return Encoding(compression=config.compression, shard_bytes=shard_bytes)


def known_ratios(alias: str, store: StoreConfig, layout: Layout) -> dict[str, float]:
    """Compression ratios by array, from a store of the same model name and layout under the root; empty if none.

    Found by name: to know which store exactly is the model's takes a hash over its weights, and a plan has none.
    """
    for folder in sorted(open_backend(store.root, store.options).folders("")):
        url = join_url(store.root, folder)
        if folder.startswith(f"{alias}-") and ActivationStore.exists(url, store.options):
            opened = ActivationStore.open(url, store.options)
            if opened.layout == layout and opened.encoding.compression == store.compression:
                return opened.compression_ratios()
    return {}


def open_store_with(model: ChatModel, store: StoreConfig, cache: CacheConfig, hashes: Sequence[str]) -> ActivationStore:
    """The store, when it holds all these prompts; raises UserError that says to run `cache` otherwise."""
    url = store_url(model, store, cache)
    if not ActivationStore.exists(url, store.options):
        raise UserError(f"there is no activation store {url}; run `cache` with the same configuration first")
    opened = ActivationStore.open(url, store.options)
    say_other_versions(opened)
    lacking = opened.lacking(hashes)
    if lacking:
        raise UserError(
            f"{len(lacking)} of {len(set(hashes))} prompts are not in {url}; run `cache` with the same configuration "
            "first (it continues where it stopped)"
        )
    return opened


def require_candidates(model: ChatModel, cache: CacheConfig) -> None:
    """Raises UserError if what is cached is not enough to make the candidates: resid_pre, all layers, eoi positions."""
    if "resid_pre" not in cache.hook_points:
        raise UserError(f"cache.hook_points is {cache.hook_points}; candidates are made from resid_pre, so add it")
    if cache.layers is not None and len(cache.layers) < model.n_layers:
        raise UserError(
            f"cache.layers names {len(cache.layers)} of {model.n_layers} layers; candidates are made from all layers, "
            "so leave it out"
        )
    if isinstance(cache.positions, int) and cache.positions < model.n_positions:
        raise UserError(
            f"cache.positions is {cache.positions}; candidates are made from the {model.n_positions} "
            "end-of-instruction tokens, so keep at least those"
        )


def records_of(sets: Iterable[PromptSet], labels: Sequence[str] = ROLES) -> list[PromptRecord]:
    """One record per different prompt, shortest first, so that a shard's prompts are of similar length.

    ``labels`` are the two kinds of prompts: a set that is named by one of them and a split has both in its records.
    """
    records: dict[str, PromptRecord] = {}
    for prompts in sets:
        label, split = label_and_split(prompts.name, labels)
        for prompt, ids in zip(prompts.hashes, prompts.token_ids, strict=True):
            if prompt not in records:
                records[prompt] = PromptRecord(
                    hash=prompt,
                    n_tokens=len(ids),
                    label=label,
                    split=split,
                    dataset=prompts.name,
                )
    return sorted(records.values(), key=lambda r: (r.n_tokens, r.hash))
