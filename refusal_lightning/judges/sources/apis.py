"""Sources of answers over the network, from settings: Together through its SDK, or any OpenAI-compatible endpoint."""

from __future__ import annotations

from refusal_lightning.judges.sources.backoff import Limits
from refusal_lightning.judges.sources.client import ApiSource
from refusal_lightning.judges.sources.endpoints import (
    OpenAIEndpoint,
    TogetherEndpoint,
    read_key,
    require_private,
    together_url,
)


def together_source(judge: str, key_env: str, model: str, max_tokens: int, limits: Limits) -> ApiSource:
    """A model at Together. Raises UserError where the key is not in the environment."""
    url, key = together_url(), read_key(key_env, judge)
    require_private(url, judge)
    return ApiSource(
        label=f"{judge} ({model} at {url})",
        identity=["together", url, model, max_tokens],
        connect=lambda: TogetherEndpoint(url, key, model, max_tokens, limits),
        limits=limits,
    )


def openai_source(judge: str, url: str, key_env: str | None, model: str, max_tokens: int, limits: Limits) -> ApiSource:
    """A model at an OpenAI-compatible endpoint, with no key where no variable is named. Raises UserError."""
    key = read_key(key_env, judge) if key_env else None
    if key:
        require_private(url, judge)
    return ApiSource(
        label=f"{judge} ({model} at {url})",
        identity=["openai", url.rstrip("/"), model, max_tokens],
        connect=lambda: OpenAIEndpoint(url, key, model, max_tokens, limits),
        limits=limits,
    )
