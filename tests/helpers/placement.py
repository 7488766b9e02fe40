"""Where the parts of a tiny model lie."""

from __future__ import annotations

from tiny_models import N_LAYERS


def spread(architecture: str) -> dict[str, int | str]:
    """A block in the middle on disk, and the embedding where it is not tied to the head."""
    places: dict[str, int | str] = {f"model.layers.{i}": "disk" if i == 1 else "cpu" for i in range(N_LAYERS)}
    places |= {"model.rotary_emb": "cpu", "model.norm": "cpu", "lm_head": "cpu"}
    return places | {"model.embed_tokens": "cpu" if architecture == "gemma2" else "disk"}
