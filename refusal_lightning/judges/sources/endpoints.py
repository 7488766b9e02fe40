"""Where judging models answer: a conversation in, a text out, or a Failure that says what went wrong."""

from __future__ import annotations

import ipaddress
import json
import os
import re
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, Protocol
from urllib.parse import urlsplit

import httpx

from refusal_lightning.errors import UserError
from refusal_lightning.io.text import one_line, whole_characters
from refusal_lightning.judges.model_judge import Message
from refusal_lightning.judges.sources.backoff import Limits, retry_after
from refusal_lightning.judges.sources.base_url import plain_url

Kind = Literal["busy", "passing", "garbled", "refused", "forbidden", "fatal"]
"""busy: every request must wait; passing: worth another try; garbled: no proper reply (a few tries); refused: this
question will never be answered; forbidden: this one (a gateway's moderation) or all (a key without access); fatal: no
question will be."""


class Failure(Exception):
    """A request without an answer. The message holds no key."""

    def __init__(self, kind: Kind, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.kind, self.reason, self.wait = kind, reason, wait


class Reply(NamedTuple):
    """A model's answer; ``cut`` says what ended it, if not the model."""

    text: str
    cut: str | None = None


class Endpoint(Protocol):
    """A connection to one model, open for the length of one asking."""

    async def send(self, messages: list[Message]) -> Reply:
        """The answer to a conversation. Raises Failure."""

    async def close(self) -> None:
        """Close the connections."""


_MEANING = {
    401: "the API key is not accepted",
    402: "the account has no credit left",
    403: "the API key has no access to this model",
    404: "there is no such model or address; check the model's name and the base URL",
}
_NO_CREDIT = {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"}
"""Codes of errors that no waiting mends, whatever their status: OpenAI sends the first with 429."""
_TOO_LARGE = re.compile(r"request too large", re.IGNORECASE)
"""What OpenAI says, with 429 too, about a request beyond what a minute may hold: it will never be let in."""
_CUT = {"length": "the limit of tokens", "content_filter": "the endpoint's content filter"}


def failure_of(status: int, headers: Mapping[str, str], body: str) -> Failure:
    """What an HTTP status other than success means, with what the body says about it."""
    no_credit = bool(_codes(body) & _NO_CREDIT)
    said = f"HTTP {status}"
    if meaning := _MEANING[402] if no_credit else _MEANING.get(status):
        said += f", {meaning}"
    if text := one_line(body)[:160]:
        said += f" ({text})"
    wait = retry_after(headers)
    if no_credit:
        return Failure("fatal", said)
    if status == 429 and _TOO_LARGE.search(body):
        return Failure("refused", said)
    if status == 429 or (status == 503 and wait):
        return Failure("busy", said, wait)
    if status in (408, 409) or status >= 500:
        return Failure("passing", said, wait)
    if status == 403:
        return Failure("forbidden", said)
    if status in _MEANING or status < 400:
        return Failure("fatal", said)
    return Failure("refused", said)


def _codes(body: str) -> set[str]:
    """The words by which the body of an error names its kind."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return set()
    error = content.get("error", content) if isinstance(content, dict) else None
    return {str(error.get(field)) for field in ("code", "type")} if isinstance(error, dict) else set()


def read_reply(text: str) -> Reply:
    """The answer in the body of a successful reply. Raises Failure where there is none: a 200 may hold anything."""
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        raise Failure("garbled", f"the reply is not JSON ({' '.join(text.split())[:60]!r})") from None
    error = body.get("error") if isinstance(body, dict) else None
    if isinstance(error, dict) and re.fullmatch(r"[1-5]\d\d", str(error.get("code"))):
        raise failure_of(int(error["code"]), {}, text)
    if isinstance(error, dict) and _codes(text) & _NO_CREDIT:
        raise failure_of(402, {}, text)
    try:
        choice = body["choices"][0]
        content, end = choice["message"]["content"], choice.get("finish_reason")
    except (KeyError, IndexError, TypeError, AttributeError):
        raise Failure("garbled", "the reply is not a chat completion") from None
    cut = _CUT.get(end) if isinstance(end, str) else None
    if content is None:
        raise Failure("refused" if cut else "garbled", f"the reply holds no text{f' ({cut})' if cut else ''}")
    if not isinstance(content, str):
        raise Failure("garbled", "the reply's content is not text")
    return Reply(whole_characters(content), cut)


def read_key(variable: str, judge: str) -> str:
    """The API key in an environment variable. Raises UserError, without ever quoting the value."""
    key = os.environ.get(variable, "").strip()
    if not key:
        raise UserError(f"{judge} needs an API key: set the environment variable {variable}, or leave the judge out")
    if not re.fullmatch(r"[!-~]+", key):
        raise UserError(f"the environment variable {variable} holds characters that no API key has; set it again")
    return key


class OpenAIEndpoint:
    """Any endpoint that speaks OpenAI's chat completions."""

    def __init__(self, url: str, key: str | None, model: str, max_tokens: int, limits: Limits) -> None:
        self._request = {"model": model, "max_tokens": max_tokens, "temperature": 0}
        self._key = key
        self._client = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=limits.timeout_s,
            limits=httpx.Limits(max_connections=limits.concurrency),
        )
        self._url = url.rstrip("/") + "/chat/completions"

    async def send(self, messages: list[Message]) -> Reply:
        try:
            reply = await self._client.post(self._url, json={**self._request, "messages": messages})
            text = reply.text
        except httpx.HTTPError as error:
            raise Failure("passing", _without_key(_describe(error), self._key)) from None
        text = _without_key(text, self._key)
        if not reply.is_success:
            raise failure_of(reply.status_code, reply.headers, text)
        return read_reply(text)

    async def close(self) -> None:
        await self._client.aclose()


class TogetherEndpoint:
    """Together's API through its SDK. Its own retries are off: each task would back off alone, and for too short."""

    def __init__(self, url: str, key: str, model: str, max_tokens: int, limits: Limits) -> None:
        from together import AsyncTogether

        self._request: dict[str, Any] = {"model": model, "max_tokens": max_tokens, "temperature": 0}
        self._key = key
        self._client = AsyncTogether(api_key=key, base_url=url, timeout=limits.timeout_s, max_retries=0)

    async def send(self, messages: list[Message]) -> Reply:
        import together

        create: Any = self._client.chat.completions.with_raw_response.create
        try:
            reply: httpx.Response = (await create(messages=messages, **self._request)).http_response
            text = _without_key(reply.text, self._key)
        except together.APIStatusError as error:
            body = _without_key(error.response.text, self._key)
            raise failure_of(error.status_code, error.response.headers, body) from None
        except (together.APIConnectionError, httpx.HTTPError) as error:
            cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
            raise Failure("passing", _without_key(_describe(cause), self._key)) from None
        return read_reply(text)

    async def close(self) -> None:
        await self._client.close()


def together_url() -> str:
    """Together's address, or the one in TOGETHER_BASE_URL; the SDK adds `/v1` itself. Raises UserError."""
    url = os.environ.get("TOGETHER_BASE_URL") or "https://api.together.ai"
    if not plain_url(url):  # it would stand in messages, with what it holds
        raise UserError(
            "the environment variable TOGETHER_BASE_URL is not a base URL such as https://host, without user or query"
        )
    return url.rstrip("/").removesuffix("/v1")


def require_private(url: str, judge: str) -> None:
    """Raise UserError where a key would travel in the clear: http to another machine."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    try:
        here = ipaddress.ip_address(host).is_loopback
    except ValueError:
        here = host == "localhost" or host.endswith(".localhost")
    if parts.scheme == "http" and not here:
        raise UserError(
            f"{judge} would send its key to {url} in the clear; use https, or an address of this machine (a tunnel: "
            f"ssh -L 8000:{host}:8000 ...)"
        )


def _describe(error: Exception) -> str:
    text = one_line(error)[:160]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _without_key(text: str, key: str | None) -> str:
    """A server may echo what it was sent."""
    return text.replace(key, "[key]") if key else text
