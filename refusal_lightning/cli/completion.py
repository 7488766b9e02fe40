"""Scripts by which a shell completes commands, keys and values of `refusal-lightning`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_type_hints

import shtab

from refusal_lightning import __version__
from refusal_lightning.cli.commands import COMMANDS, Command
from refusal_lightning.cli.parsing import load, parser_of
from refusal_lightning.cli.program import SCRIPT
from refusal_lightning.cli.schema import choices
from refusal_lightning.cli.sections import SECTIONS
from refusal_lightning.io.shipped import configurations

_PATHS = {"config", "plugins", "from_scores", "folder", "url", "source", "target", "path", "out"}
"""Arguments that name a file or a folder."""
_PATH_KEYS = {"name", "root", "out", "offload_folder", "include_path"}
"""Keys of sections that do."""

_CONFIGS = "_refusal_lightning_configs"
"""The function of the bash script that offers shipped configurations and files."""


def completion(shell: Literal["bash", "zsh"]) -> None:
    """Print a script that completes commands, keys and values in a shell.

    Args:
        shell: The shell, bash or zsh. For bash: eval "$(refusal-lightning completion bash)" in ~/.bashrc.
    """
    names = " ".join(configurations())
    function = f'{_CONFIGS}() {{ compgen -W "{names}" -- "$1"; compgen -f -- "$1"; }}'
    print(shtab.complete(_tree(), shell, preamble=function if shell == "bash" else ""))


def _tree() -> argparse.ArgumentParser:
    """All commands as one parser: each of ours reads one command, and this one only describes them."""
    whole = argparse.ArgumentParser(SCRIPT)
    whole.add_argument("--version", action="version", version=__version__, help="print the version")
    below = {"": whole.add_subparsers()}
    for name, command in COMMANDS.items():
        group, _, last = name.rpartition(" ")
        if group not in below:
            below[group] = below[""].add_parser(group, help=f"commands of {group}").add_subparsers()
        parser = below[group].add_parser(last, help=command.help, description=command.help)
        types = _types(command)
        for action in parser_of(name)._actions:
            if action.help != argparse.SUPPRESS and action.dest != "help":
                _describe(parser, action, choices(types.get(action.dest)))
        _describe(parser, argparse.Action(["--plugins"], "plugins", help="a Python file of yours that adds entries"))
    return whole


def _describe(parser: argparse.ArgumentParser, action: argparse.Action, values: Sequence[str] = ()) -> None:
    """Add an argument with what the shell has to know of it: its name, text, and values."""
    flags = [flag for flag in action.option_strings if not flag.endswith("+")]  # `--key+` appends to a list
    kind: dict[str, Any] = {"action": "store_true"} if action.nargs == 0 else {"choices": list(values) or None}
    added = parser.add_argument(*(flags or [action.dest]), help=str(action.help or "").replace("%", "%%"), **kind)
    section, _, key = action.dest.partition(".")
    if action.dest == "config":
        added.complete = {"bash": _CONFIGS, "zsh": "_files"}  # type: ignore[attr-defined]
    elif action.dest in _PATHS or (section in SECTIONS and key in _PATH_KEYS):
        added.complete = shtab.FILE  # type: ignore[attr-defined]


def _types(command: Command) -> Mapping[str, Any]:
    """The types of a command's arguments, by their names."""
    if not command.sections:
        return get_type_hints(load(command.settings or command.target))
    return {
        f"{section}.{key}": hint
        for section in command.sections
        for key, hint in get_type_hints(SECTIONS[section]).items()
    }
