"""From the command line to typed objects.

One configuration file serves all stages: each stage reads its sections, and the sections of the others are checked
too, so that a mistyped key is refused wherever it stands.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import importlib
import inspect
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonargparse
import yaml

from refusal_lightning.cli.commands import COMMANDS
from refusal_lightning.cli.data_only import (
    require_data,
    require_no_plugins,
    require_plain_flags,
    require_switches_asked_for,
    switch_off_imports,
)
from refusal_lightning.cli.flags import HELP
from refusal_lightning.cli.names import require_registered, unregistered
from refusal_lightning.cli.program import program
from refusal_lightning.cli.sections import SECTIONS
from refusal_lightning.config import SetConfig
from refusal_lightning.errors import UserError
from refusal_lightning.io.shipped import configuration, configurations
from refusal_lightning.io.text import one_line

log = logging.getLogger(__name__)

jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
switch_off_imports()


def load(target: str) -> Any:
    """The object that `module:name` names."""
    module, name = target.split(":")
    return getattr(importlib.import_module(module), name)


def parse(command: str, argv: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """What a command calls, as `module:name`, and its arguments. Raises UserError for what is not as it should be."""
    argv = _files_first(argv)
    about = COMMANDS[command]
    require_plain_flags(argv, about.sections)
    parser = parser_of(command)
    try:
        parsed = parser.parse_args(argv, env=False)
        objects = parser.instantiate(parsed)
        values = {name: value for name, value in objects.items() if name != "config"}
        for name, value in values.items():
            require_data(value, name)
        require_switches_asked_for(values, argv)
        require_registered({name: value for name, value in values.items() if name in about.sections})
        if about.settings:
            return about.target, {"config": load(about.settings)(**values)}
        return about.own_flags.redirect(about.target, values) if about.own_flags else (about.target, values)
    except ImportError as error:  # a value that names code, which the parser was forbidden to import
        raise UserError(f"{' '.join(str(error).split()).partition(',')[0]}: a configuration is data") from error
    except (argparse.ArgumentError, jsonargparse.ArgumentError) as error:
        raise UserError(_with_hint(str(error.message), command)) from error
    except RecursionError:
        raise UserError("the configuration has a part that holds itself (`&name` and `*name`)") from None
    except ValueError as error:  # a dataclass's own check
        raise UserError(one_line(error)) from error


def parser_of(command: str) -> jsonargparse.ArgumentParser:
    """The parser of one command's arguments."""
    about = COMMANDS[command]
    return _stage_parser(command, about.sections) if about.sections else _tool_parser(command)


def _files_first(argv: Sequence[str]) -> list[str]:
    """The arguments with the configuration files, found, before the rest. Raises UserError for one that is nowhere.

    The parser lets the later one win, so that a file given after a key would undo it without a word.
    """
    files: list[str] = []
    rest: list[str] = []
    words = iter(argv)
    for word in words:
        if word == "--config":
            files += [word, *[_configuration_file(value) for value in (next(words, None),) if value is not None]]
        elif word.startswith("--config="):
            files.append(f"--config={_configuration_file(word.removeprefix('--config='))}")
        else:
            rest.append(word)
    return files + rest


def _configuration_file(name: str) -> str:
    """A configuration by its file, or by the name of one that travels with the package. Raises UserError."""
    if Path(name).is_file():
        return name
    if (found := configuration(name)) is not None:
        return str(found)
    raise UserError(
        f"configuration file {name!r} does not exist; `init` writes one, and these come with the package: "
        f"{', '.join(configurations())}"
    )


class _Parser(jsonargparse.ArgumentParser):
    """A stage's parser; a file's sections of other stages are checked by those sections' own parser."""

    def __init__(self, *args: Any, sections: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._sections = tuple(sections)

    def parse_path(self, path: Any, *args: Any, **kwargs: Any) -> Any:
        text = Path(path).read_text(encoding="utf-8")
        try:
            content = yaml.safe_load(text) or {}
        except yaml.YAMLError as error:
            raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
        if not isinstance(content, dict):
            raise UserError(f"{path} holds no `key: …` mapping; `init` writes an example")
        require_data(content)
        if "config" in content:
            raise UserError(f"{path}: `config` is no key; give several files with --config each")
        require_no_plugins(content, str(path))
        for section in (name for name in SECTIONS if self._sections and name in content):
            if content[section] is None:  # all of its keys are commented out
                del content[section]
            elif not isinstance(content[section], dict):
                raise UserError(f"{path}: {section} is {content[section]!r}; it must be a mapping of its keys")
        others = {k: v for k, v in content.items() if self._sections and k in SECTIONS and k not in self._sections}
        if others:
            parser = _stage_parser("", tuple(others), config_file=False)
            values = parser.instantiate(parser.parse_object(others, env=False))
            require_switches_asked_for(values, ())
            for line in unregistered(values):
                log.warning(line)
        own = {k: v for k, v in content.items() if k not in others}
        return self.parse_string(yaml.safe_dump(own), *args, **kwargs)


def _new_parser(command: str, sections: Sequence[str] = ()) -> _Parser:
    about = COMMANDS[command].help if command else ""
    return _Parser(
        prog=f"{program()} {command}".strip(),
        description=about[:1].upper() + about[1:] + "." if about else None,
        epilog=" ".join(HELP),
        exit_on_error=False,
        allow_abbrev=False,
        sections=sections,
    )


def _stage_parser(command: str, sections: Sequence[str], config_file: bool = True) -> _Parser:
    parser = _new_parser(command, sections)
    if config_file:
        parser.add_argument(
            "--config", action="config", help="YAML file with the sections below; given twice, the later one wins."
        )
    if command and (flags := COMMANDS[command].own_flags):
        flags.add(parser)
    for section in sections:
        parser.add_class_arguments(SECTIONS[section], section)
    for action in parser._actions:
        if action.dest in sections:  # the parser's own way to read a section from a file, which is refused
            action.help = argparse.SUPPRESS
    return parser


def _tool_parser(command: str) -> _Parser:
    about = COMMANDS[command]
    parser = _new_parser(command)
    if about.settings:
        parser.add_argument("--config", action="config", help="YAML file with the keys below.")
        parser.add_class_arguments(load(about.settings), None)
    elif about.own_flags:
        about.own_flags.add(parser)
    else:
        parser.add_function_arguments(load(about.target), None, as_positional=True)
    return parser


def _known_keys(command: str) -> list[str]:
    about = COMMANDS[command]
    if about.settings:
        return [field.name for field in dataclasses.fields(load(about.settings))]
    if not about.sections:
        return list(inspect.signature(load(about.target)).parameters)
    keys = [f"{name}.{field.name}" for name, cls in SECTIONS.items() for field in dataclasses.fields(cls)]
    return [*keys, *SECTIONS]


def _with_hint(message: str, command: str) -> str:
    """A parser's message in plain words; one that names an unknown key with `did you mean …?`, or where it belongs."""
    message = _plain(one_line(message))
    unknown = re.search(
        r"(?:(?:Group|Subcommand) '(\w+)' )?(?:does not accept option|unrecognized arguments:)\s+['\"]?-*([\w.]+)",
        message,
    )
    if not unknown:
        return message
    known = _known_keys(command)
    word = f"{unknown.group(1)}.{unknown.group(2)}" if unknown.group(1) in SECTIONS else unknown.group(2)
    sections = COMMANDS[command].sections
    if sections and word in known:
        own = ", ".join(sections)
        return f"{message}; `{command}` reads {own}: give {word} to a stage that reads it, or in the configuration file"
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if not near and "." not in word:
        near = [key for key in known if key.endswith(f".{word}")][:1]
    return f"{message}; did you mean {near[0]}?" if near and near[0] != word else message


def _plain(message: str) -> str:
    """A message about a value of the wrong kind without the parser's own words for kinds."""
    found = re.search(
        r'Parser key "([\w.]+)": (?:Does not validate against any of the Union subtypes Subtypes: \[(.*?)\] '
        r"Errors: (.*)Given value type: .*? Given value: (.*)|Expected an? (.*?)\. Got value: (.*))$",
        message,
    )
    if not found:
        return message
    key, kinds, errors, given, only, got = found.groups()
    option = re.search(r"Option '(\w+)[\w.]*' is not accepted", errors or "")
    if option:
        near = difflib.get_close_matches(option.group(1), [field.name for field in dataclasses.fields(SetConfig)], n=1)
        return f"{key}: there is no option {option.group(1)!r}" + (f"; did you mean {near[0]}?" if near else "")
    kinds = re.sub(r"<class '(?:[\w.]+\.)?(\w+)'>", r"\1", kinds or only).replace("NoneType", "null")
    kinds = re.sub(r"(?:typing\.)?Literal\[(.*?)\]", r"\1", kinds)
    wanted = [_kind(kind) for kind in re.findall(r"[^,\s][^,\[]*(?:\[[^\]]*\])*", kinds)]
    return f"{key} is {given or got}; it must be " + " or ".join([*filter(None, [", ".join(wanted[:-1])]), wanted[-1]])


_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "a text",
    "bool": "true or false",
    "dict": "a mapping",
    "list": "a list",
    "null": "null",
}


def _kind(kind: str) -> str:
    """A kind of value in plain words: `int` is a whole number, `list[int]` a list of whole numbers."""
    listed = re.fullmatch(r"list\[(.*)\]", kind)
    if listed:
        items = [_KINDS.get(one.strip(), one.strip()).split(" ", 1)[-1] + "s" for one in listed.group(1).split("|")]
        return f"a list of {' or '.join(items)}"
    mapping = re.fullmatch(r"dict\[.*\]", kind)
    return _KINDS["dict"] if mapping else _KINDS.get(kind, "a mapping of its keys" if kind.endswith("Config") else kind)
