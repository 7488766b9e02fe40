"""Texts that become part of a message or a file."""

from __future__ import annotations

import re

_HALF = re.compile("[\ud800-\udfff]")


def one_line(text: object) -> str:
    """A text, or an error's message, without its line breaks and double spaces."""
    return " ".join(str(text).split())


def has_half_character(text: str) -> bool:
    """Whether a text holds a lone surrogate, which JSON can spell (backslash, ud83d) and no file of UTF-8 can hold."""
    return _HALF.search(text) is not None


def whole_characters(text: str) -> str:
    """The text with the replacement character in place of each lone surrogate."""
    return _HALF.sub("\N{REPLACEMENT CHARACTER}", text)
