"""Texts of messages."""

from __future__ import annotations

from refusal_lightning.io.text import has_half_character, one_line, whole_characters


def test_a_message_is_one_line():
    assert one_line(ValueError("  first\n\tsecond  third\r\n")) == "first second third"
    assert one_line("") == one_line(ValueError()) == ""


def test_half_characters():
    assert has_half_character("a\ud83d") and not has_half_character("a\U0001f535")
    assert whole_characters("a\ud83d\udd35b\U0001f535") == "a\ufffd\ufffdb\U0001f535"
