"""JSON lines that processes append to and that a kill may cut short: such a line is as if it had never been written."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

Record = dict[str, Any]


def whole_lines(content: bytes) -> bytes:
    """What a file holds up to the end of its last whole line."""
    return content[: content.rfind(b"\n") + 1]


def read_records(content: bytes) -> Iterator[Record]:
    """The objects of a file's lines, in order; a line that is none, cut short say, is left out."""
    for line in content.split(b"\n"):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict):
            yield record
