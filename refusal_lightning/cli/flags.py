"""The flags that every command takes, wherever they stand among its arguments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from refusal_lightning.errors import UserError

PLUGINS = "--plugins"
HELP = (
    "--plugins FILE (anywhere, several times) runs a Python file of yours first, which adds judges and the like.",
    "--debug (anywhere) shows the traceback of an error.",
)


@dataclass(frozen=True)
class CommonFlags:
    """What the flags say, and the arguments without them."""

    debug: bool
    plugins: tuple[str, ...]
    rest: tuple[str, ...]


def take_common_flags(arguments: Sequence[str]) -> CommonFlags:
    """Part the common flags from the others. Raises UserError where a file's name is missing."""
    plugins: list[str] = []
    rest: list[str] = []
    words = iter(arguments)
    for word in words:
        if word == PLUGINS or word.startswith(f"{PLUGINS}="):
            file = word.partition("=")[2] if "=" in word else next(words, "")
            if not file or file.startswith("--"):
                raise UserError(f"{PLUGINS} needs the name of a Python file")
            plugins.append(file)
        elif word != "--debug":
            rest.append(word)
    return CommonFlags("--debug" in arguments, tuple(plugins), tuple(rest))
