"""Conversations as the tokenizer's own chat template renders them, to compare with."""

from __future__ import annotations

from typing import Any

from refusal_lightning.io.text import one_line


def render_own(
    tokenizer: Any, system_prompt: str | None, *turns: str, generation_prompt: bool = True
) -> tuple[str | None, str]:
    """A conversation of user and assistant by turns, as text; None where the template fails, then with its reason."""
    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": turn} for i, turn in enumerate(turns)]
    if system_prompt is not None:
        messages.insert(0, {"role": "system", "content": system_prompt})
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generation_prompt)), ""
    except Exception as error:  # jinja errors, or the template's own raise_exception
        return None, one_line(error)[:200]
