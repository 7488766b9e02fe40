"""The settings of judges, one line of documentation per key, and those of the `judge` command."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Literal

from refusal_lightning.judges.sources.backoff import Limits
from refusal_lightning.judges.sources.base_url import plain_url


def _require(condition: bool, key: str, wanted: str, value: Any = ...) -> None:
    """Raise ValueError; the value is quoted only where it is given, since a key may stand there by mistake."""
    if not condition:
        raise ValueError(f"{key} is {'not ' if value is ... else repr(value) + '; it must be '}{wanted}")


@dataclass(kw_only=True)
class JudgeSettings:
    """Which models judge, where they are asked, and how hard."""

    paper: bool = False
    """Judge as the paper's code does: ASCII apostrophes only, and a verdict also for an unreadable answer."""
    llama_guard_model: str = "meta-llama/LlamaGuard-2-8b"
    """Model that `llama_guard` asks, by the endpoint's name for it."""
    llama_guard_url: str | None = None
    """Base URL of an OpenAI-compatible endpoint, with its `/v1` (default: Together, through its SDK)."""
    llama_guard_key_env: str | None = None
    """Environment variable with the API key (default: TOGETHER_API_KEY for Together, no key for another endpoint)."""
    llama_guard_tokenizer: str | None = None
    """Hub name or folder of Llama Guard's tokenizer, to ask as the authors did (default: send the conversation)."""
    llama_guard_local_model: str = "meta-llama/Meta-Llama-Guard-2-8B"
    """Model that `llama_guard_local` runs on this machine: Hub name or folder."""
    harmbench_model: str = "cais/HarmBench-Llama-2-13b-cls"
    """Model that `harmbench` runs on this machine: Hub name or folder."""
    local_dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    """Weights of the models that run on this machine."""
    local_batch_size: int = 8
    """Questions that a model on this machine reads at a time."""
    strongreject_model: str = "gpt-4o-mini"
    """Model that `strongreject` asks, by the endpoint's name for it."""
    strongreject_url: str | None = None
    """Base URL of an OpenAI-compatible endpoint, with its `/v1` (default: OpenAI)."""
    strongreject_key_env: str | None = None
    """Environment variable with the API key (default: OPENAI_API_KEY for OpenAI, no key for another endpoint)."""
    strongreject_template: str | None = None
    """The authors' `judge_templates.json`, to ask in their words (default: this tool's words for the same rubric)."""
    concurrency: int = 8
    """Requests under way at a time, per judge."""
    requests_per_minute: float | None = None
    """Pace of the requests of a judge (default: as fast as the concurrency allows)."""
    timeout_s: float = 60.0
    """Longest wait for one reply, in seconds."""
    deadline_s: float = 600.0
    """Longest time without an answer, in seconds, tries and waits included, before a question is given up."""

    def __post_init__(self) -> None:
        for key in ("concurrency", "local_batch_size"):
            _require(getattr(self, key) > 0, key, "a positive whole number", getattr(self, key))
        for key in ("requests_per_minute", "timeout_s", "deadline_s"):
            value = getattr(self, key)
            _require(value is None or value > 0, key, "above 0", value)
        for key in ("llama_guard_url", "strongreject_url"):
            _require(plain_url(getattr(self, key)), key, "a base URL such as https://host/v1, without user or query")
        for key in ("llama_guard_key_env", "strongreject_key_env"):
            name = getattr(self, key)
            known = name is None or re.fullmatch(r"[A-Z_][A-Z0-9_]*", name) is not None
            _require(known, key, "the name of an environment variable, in capitals; the key itself belongs in there")

    @property
    def limits(self) -> Limits:
        return Limits(self.concurrency, self.requests_per_minute, self.timeout_s, self.deadline_s)


@dataclass(kw_only=True)
class JudgeConfig(JudgeSettings):
    """The `judge` command: score any file of completions."""

    completions: str
    """JSON file to judge: a list of `{"category", "prompt", "response"}`."""
    judges: list[str] = field(default_factory=lambda: ["substring"])
    """Judges, side by side: substring, llama_guard, llama_guard_local, harmbench, strongreject, or registered ones of
    your own."""
    out: str
    """JSON file to write: rates with intervals, agreement of the judges, and each completion with its verdicts."""
    answers: str | None = None
    """File that keeps what judging models answered, so that nothing is asked twice (default: `OUT.answers.jsonl`)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(bool(self.judges), "judges", "a non-empty list", self.judges)
