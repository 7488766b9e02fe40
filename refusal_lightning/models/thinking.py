"""Models that think before they answer: their first token begins a thought, not the answer."""

from __future__ import annotations

import re

# Opening marks of the families that think: Qwen, DeepSeek, SmolLM (<think>), Magistral ([THINK]), gpt-oss (channels).
_OPENING = re.compile(r"<think(ing)?>|\[THINK\]|<\|channel\|>(?!final)|<thought>|<reasoning>", re.IGNORECASE)
_CLOSING = re.compile(r"</think(ing)?>|\[/THINK\]|<\|channel\|>final|</thought>|</reasoning>", re.IGNORECASE)


def opens_thought(text: str) -> bool:
    """Whether a text begins with the mark of a thought."""
    return _OPENING.match(text.lstrip()) is not None


def leaves_thought_open(prompt_end: str) -> bool:
    """Whether a prompt, from its instruction's end on, opens a thought that it does not close."""
    opened = [match.start() for match in _OPENING.finditer(prompt_end)]
    closed = [match.start() for match in _CLOSING.finditer(prompt_end)]
    return bool(opened) and (not closed or closed[-1] < opened[-1])
