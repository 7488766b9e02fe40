"""The site as `make docs` builds it, and what a browser would ask for to show it."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

from nodes import ROOT

_LOADED = {
    "script": ("src",),
    "img": ("src", "srcset"),
    "source": ("src", "srcset"),
    "iframe": ("src",),
    "embed": ("src",),
    "object": ("data",),
    "video": ("src", "poster"),
    "audio": ("src",),
    "track": ("src",),
    "input": ("src",),
    "use": ("href", "xlink:href"),
    "image": ("href", "xlink:href"),
}
"""What a browser loads by itself, by the elements and attributes that name it; of `link` it depends on `rel`."""
_NOT_LOADED = {"canonical", "alternate", "next", "prev", "author", "license", "edit", "help", "search"}


def build(folder: Path) -> subprocess.CompletedProcess[str]:
    """Build the site, strictly, into a folder."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)


def requests_elsewhere(site: Path) -> Iterator[str]:
    """Every resource of another host that a page, a style sheet or a script names to be loaded."""
    for path in sorted(site.rglob("*")):
        name = path.relative_to(site)
        if path.suffix == ".html":
            finder = _Resources()
            finder.feed(path.read_text(encoding="utf-8"))
            yield from (f"{name}: {url}" for url in finder.found if _is_elsewhere(url))
            yield from (f"{name}: {url}" for url in _in_style("\n".join(finder.styles)))
        elif path.suffix == ".css":
            yield from (f"{name}: {url}" for url in _in_style(path.read_text(encoding="utf-8")))
        elif path.suffix == ".js":
            yield from (f"{name}: {url}" for url in _in_script(path.read_text(encoding="utf-8")))


def _is_elsewhere(url: str) -> bool:
    return bool(re.match(r"\s*(https?:)?//", url))


def _in_style(text: str) -> Iterator[str]:
    for url in re.findall(r"(?:url\(|@import)\s*[\"']?([^\"')\s;]+)", text):
        if _is_elsewhere(url):
            yield url


def _in_script(text: str) -> Iterator[str]:
    yield from re.findall(
        r"(?:\b(?:src|href)\s*[=:]\s*|\b(?:import|fetch|importScripts)\s*\(\s*)[\"'`](https?://[^\"'`]+)", text
    )


class _Resources(HTMLParser):
    """The addresses that a page loads from, and its own styles."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.styles: list[str] = []
        self._in_style = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        names = _LOADED.get(tag, ())
        if tag == "link" and not set(given.get("rel", "").split()) & _NOT_LOADED:
            names = ("href",)
        self.found += [part.split()[0] for name in names for part in given.get(name, "").split(",") if part.strip()]
        self.styles.append(given.get("style", ""))
        self._in_style = tag == "style"

    def handle_endtag(self, tag: str) -> None:
        self._in_style = False

    def handle_data(self, data: str) -> None:
        if self._in_style:
            self.styles.append(data)
