"""Which base URLs may stand in a configuration."""

from __future__ import annotations

import re


def plain_url(url: str | None) -> bool:
    """Whether a base URL holds neither user nor query, in which keys could stand; None is one."""
    return url is None or re.fullmatch(r"https?://[^\s/@?#]+(/[^\s@?#]*)?", url) is not None
