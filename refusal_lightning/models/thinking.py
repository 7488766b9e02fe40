"""Models that think before they answer: their first token begins a thought, not the answer."""

from __future__ import annotations

import re

# Marks of the families that think: Qwen, DeepSeek, SmolLM (<think>), Magistral ([THINK]), gpt-oss (channels), Command.
_OPENS = re.compile(
    r"<(think|thinking|thought|reasoning)>|<\|channel\|>(?!\s*final)|<\|START_THINKING\|>|\[THINK\]|"
    r"<\|begin_of_thought\|>",
    re.IGNORECASE,
)
_CLOSES = re.compile(
    r"</(think|thinking|thought|reasoning)>|<\|channel\|>\s*final|<\|END_THINKING\|>|\[/THINK\]|<\|end_of_thought\|>",
    re.IGNORECASE,
)


def opens_thought(text: str) -> bool:
    """Whether a text begins with the mark of a thought."""
    return _OPENS.match(text.lstrip()) is not None


def leaves_thought_open(prompt_end: str) -> bool:
    """Whether a prompt, from its instruction's end on, opens a thought that it does not close."""
    return _last(_OPENS, prompt_end) > _last(_CLOSES, prompt_end)


def may_open_thought(template: str, prompt_end: str) -> bool:
    """Whether a chat template has the mark of a thought and no switch, and the prompt that it made closes none."""
    switch = "enable_thinking" in template
    return not switch and _OPENS.search(template) is not None and _CLOSES.search(prompt_end) is None


def _last(pattern: re.Pattern[str], text: str) -> int:
    """Where a pattern last begins; -1 if nowhere."""
    return max((match.start() for match in pattern.finditer(text)), default=-1)
