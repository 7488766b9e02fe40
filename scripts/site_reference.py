"""Pages of the site that are made from code when it is built: commands, keys of a configuration, the Python API."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import inspect
import io
import os
import textwrap
from collections.abc import Callable, Iterator
from typing import get_args, get_type_hints

from site_markdown import anchor_of

from refusal_lightning.cli import main
from refusal_lightning.cli.commands import COMMANDS, Command
from refusal_lightning.cli.sections import SECTIONS
from refusal_lightning.store import ActivationStore

_PROGRAM = "python -m refusal_lightning"


def commands_page() -> str:
    """Every command: what it is for, the sections that it reads, and its `--help`."""
    parts = [
        "# Command line",
        f"`{_PROGRAM} COMMAND --config FILE [--section.key VALUE ...]`. A key on the command line counts more than in "
        "a file, and of two files the later one. This page is what `--help` says in the version at hand.",
        "| command | what it does |\n| --- | --- |\n"
        + "\n".join(f"| [`{name}`](#{_slug(name)}) | {command.help} |" for name, command in COMMANDS.items()),
        _help_of([]),
    ]
    for name, command in COMMANDS.items():
        parts += [f"## {name} {{: #{_slug(name)} }}", _about(command), _help_of(name.split())]
    return "\n\n".join(parts) + "\n"


def _slug(name: str) -> str:
    return name.replace(" ", "-")


def _about(command: Command) -> str:
    sentence = f"{command.help[:1].upper()}{command.help[1:]}."
    if not command.sections:
        return sentence
    sections = ", ".join(f"[`{section}`](configuration.md#{section})" for section in command.sections)
    return f"{sentence} It reads the sections {sections}."


def _help_of(words: list[str]) -> str:
    line = " ".join([_PROGRAM, *words, "--help"])
    text = textwrap.indent(f"```text\n{help_text(words)}\n```", "    ")
    return f'??? abstract "{line}"\n\n{text}'


def help_text(words: list[str]) -> str:
    """What `--help` prints, at a width that fits a page."""
    out = io.StringIO()
    before = {name: os.environ.get(name) for name in ("COLUMNS", "NO_COLOR")}
    os.environ.update(COLUMNS="96", NO_COLOR="1")
    try:
        with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
            main([*words, "--help"])
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)
    return out.getvalue().strip()


def configuration_page() -> str:
    """Every key of a configuration: its kind, its default, what it means."""
    parts = [
        "# Configuration",
        "One YAML file serves all commands: each reads its sections, and the others' are checked too. "
        f"`{_PROGRAM} COMMAND --config FILE --print_config` prints what was read. Every key can be given on the "
        "command line, `--section.key VALUE`. This page is made from the code in the version at hand.",
        "| section | what it is about | read by |\n| --- | --- | --- |\n"
        + "\n".join(
            f"| [`{name}`](#{name}) | {_summary(kind)} | {_readers(name)} |" for name, kind in SECTIONS.items()
        ),
    ]
    for name, kind in SECTIONS.items():
        parts += [f"## {name}", f"{_summary(kind)}", *_keys_of(name, kind)]
    return "\n\n".join(parts) + "\n"


def _summary(kind: type) -> str:
    text = inspect.getdoc(kind) or ""
    return " ".join(text.partition("\n\n")[0].split())


def _readers(section: str) -> str:
    names = [name for name, command in COMMANDS.items() if section in command.sections]
    return ", ".join(f"[`{name}`](commands.md#{_slug(name)})" for name in names)


def _keys_of(section: str, kind: type, prefix: str = "") -> Iterator[str]:
    said = documented(kind)
    for field in dataclasses.fields(kind):
        name = f"{prefix}{field.name}"
        below = _nested(kind, field.name)
        yield f"### `{section}.{name}` {{: #{anchor_of(section, name)} }}"
        yield f"`{_kind_of(field)}`, default `{_default_of(field)}`\n{{: .kind }}"
        yield said.get(field.name, "")
        if below is not None:
            yield f"{_summary(below)} Its keys:"
            inner = documented(below)
            yield "\n".join(
                f"- `{one.name}` (`{_kind_of(one)}`, default `{_default_of(one)}`): {inner[one.name]}"
                for one in dataclasses.fields(below)
            )


def _nested(kind: type, name: str) -> type | None:
    """The dataclass in a field's type, if there is one."""
    waiting = [get_type_hints(kind)[name]]
    while waiting:
        one = waiting.pop()
        if isinstance(one, type) and dataclasses.is_dataclass(one):
            return one
        waiting += get_args(one)
    return None


def documented(kind: type) -> dict[str, str]:
    """The line of text under each field of a dataclass and those that it inherits from."""
    said: dict[str, str] = {}
    for one in reversed(kind.__mro__):
        if not dataclasses.is_dataclass(one):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(one))).body[0]
        assert isinstance(body, ast.ClassDef)
        for field, below in zip(body.body, body.body[1:], strict=False):
            match field, below:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    said[name] = " ".join(text.split())
    return said


def _kind_of(field: dataclasses.Field) -> str:
    return str(field.type).replace("| None", "or null").replace(" | ", " or ")


def _default_of(field: dataclasses.Field) -> str:
    if field.default is not dataclasses.MISSING:
        value = field.default
    elif field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    else:
        return "none: it must be given"
    words = {None: "null", True: "true", False: "false"}
    return words[value] if value is None or isinstance(value, bool) else str(value)


def keys() -> set[str]:
    """All keys of a configuration, `section.key`."""
    return {f"{name}.{field.name}" for name, kind in SECTIONS.items() for field in dataclasses.fields(kind)}


def api_page() -> str:
    """Every public name of the package: functions first, then what they give. The store has a page of its own."""
    import refusal_lightning

    parts = ["# Python API", "What `import refusal_lightning as rl` gives, as `rl.NAME`: [a guide](../api.md)."]
    for name in sorted(refusal_lightning.__all__, key=lambda name: (name[0].isupper(), name)):
        elsewhere = getattr(refusal_lightning, name) is ActivationStore
        link = f"## {name} {{: #refusal_lightning.{name} }}\n\nSee [the store from Python](store.md)."
        parts.append(link if elsewhere else f"::: refusal_lightning.{name}")
    return "\n\n".join(parts) + "\n"


def store_page() -> str:
    """The store's public names."""
    from refusal_lightning import store

    parts = ["# The store from Python", "The format and its guarantees are on [a page of their own](../store.md)."]
    named = [f"::: refusal_lightning.store.{name}" for name in store.__all__ if name != "HOOK_POINTS"]
    return "\n\n".join([*parts, *named]) + "\n"


PAGES: dict[str, Callable[[], str]] = {
    "reference/commands.md": commands_page,
    "reference/configuration.md": configuration_page,
    "reference/api.md": api_page,
    "reference/store.md": store_page,
}
"""By their place on the site."""
