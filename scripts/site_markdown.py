"""Pages as they are in the repository, made fit for the site: links, keys, and lists as its Markdown wants them."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Collection, Iterator, Mapping

_LINK = re.compile(r"\[([^\[\]]*(?:\[[^\[\]]*\][^\[\]]*)*)\]\(([^()\s]+)\)")
_KEY = re.compile(r"(?<![\[`])`(([a-z]+)\.([a-z_]+))((?:: | )[^`\n]*)?`(?![\]`])")
_FENCE = re.compile(r" *(`{3,}|~{3,})")


def fitted(
    markdown: str, source: str, uri: str, pages: Mapping[str, str], exists: Callable[[str], bool], keys: Collection[str]
) -> str:
    """A page's text for the site.

    ``source`` is its place in the repository and ``uri`` its place on the site, which differ where it lies outside
    docs/. ``pages`` gives the place on the site by the place in the repository. ``exists`` tells whether something is
    in the repository, ``keys`` are those of a configuration, which lead to their entries.
    """
    lines = []
    for line, is_code in _lines(markdown):
        if not is_code:
            line = _LINK.sub(lambda found: _link(found, source, uri, pages, exists), line)
            line = _KEY.sub(lambda found: _key(found, uri, keys), line)
        lines.append(line)
    return "\n".join(lines)


def _lines(markdown: str) -> Iterator[tuple[str, bool]]:
    """The lines, and whether they are code. What stands in a list is indented by four; GitHub is content with two."""
    fence, shift = "", 0
    for line in markdown.split("\n"):
        opens = _FENCE.match(line)
        if not fence:
            indent = len(line) - len(line.lstrip(" "))
            shift = 4 * ((indent + 2) // 4 if indent > 1 else 0) - indent if indent else 0
        yield (" " * shift + line if shift > 0 and line else line), bool(fence or opens)
        if opens and not fence:
            fence = opens.group(1)
        elif opens and line.strip().startswith(fence):
            fence = ""


def _link(found: re.Match[str], source: str, uri: str, pages: Mapping[str, str], exists: Callable[[str], bool]) -> str:
    text, target = found.groups()
    path, hash_, anchor = target.partition("#")
    if not path or "://" in path or path.startswith("mailto:"):
        return found.group()
    place = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
    if place in pages:
        return f"[{text}]({_relative(pages[place], uri)}{hash_}{anchor})"
    if exists(place) and not place.startswith("docs/"):
        return text  # in the repository, and no page: the name has to do
    return found.group()


def _key(found: re.Match[str], uri: str, keys: Collection[str]) -> str:
    key, section, name = found.group(1), found.group(2), found.group(3)
    if key not in keys:
        return found.group()
    return f"[{found.group()}]({_relative('reference/configuration.md', uri)}#{anchor_of(section, name)})"


def anchor_of(section: str, name: str) -> str:
    """The anchor of a key on the page of the configuration."""
    return f"{section}-{name}"


def _relative(uri: str, page: str) -> str:
    return posixpath.relpath(uri, posixpath.dirname(page) or ".")
