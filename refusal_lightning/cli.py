"""The command line: `python -m refusal_lightning STAGE --config FILE [--section.key VALUE ...]`; no logic.

One configuration file serves all stages: each stage reads its sections, and the sections of the others are
checked too, so that a mistyped key is refused wherever it stands.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import importlib
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Optional

import jsonargparse
import yaml

from refusal_lightning import __version__, config
from refusal_lightning.errors import UserError

jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)

SECTIONS: dict[str, type] = {
    "model": config.ModelConfig,
    "data": config.DataConfig,
    "store": config.StoreConfig,
    "trainer": config.TrainerConfig,
    "runs": config.RunsConfig,
    "cache": config.CacheConfig,
    "select": config.SelectConfig,
    "evaluate": config.EvaluateConfig,
}


@dataclasses.dataclass(frozen=True)
class Command:
    """A subcommand: the sections it reads, and the function `module:name` that takes them by name."""

    help: str
    sections: tuple[str, ...]
    target: str


COMMANDS = {
    "cache": Command(
        "run the prompts through the model once and keep their activations in the store",
        ("model", "data", "store", "trainer", "cache"),
        "refusal_lightning.stages.cache:cache",
    ),
    "select": Command(
        "find the refusal direction from the store and choose the best candidate",
        ("model", "data", "store", "trainer", "runs", "select"),
        "refusal_lightning.stages.select:select",
    ),
    "evaluate": Command(
        "measure refusal and loss under baseline, ablation and activation addition",
        ("model", "data", "store", "trainer", "runs", "evaluate"),
        "refusal_lightning.stages.evaluate:evaluate",
    ),
}


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
            raise UserError(f"{path} holds no `section: …` mapping; see configs/demo.yaml for an example")
        others = {k: v for k, v in content.items() if k in SECTIONS and k not in self._sections}
        if others:
            parser = _stage_parser("", tuple(others), config_file=False)
            parser.instantiate(parser.parse_object(others))
        own = {k: v for k, v in content.items() if k not in others}
        return self.parse_string(yaml.safe_dump(own), *args, **kwargs)


def _stage_parser(command: str, sections: Sequence[str], config_file: bool = True) -> _Parser:
    about = COMMANDS[command].help if command else ""
    parser = _Parser(
        prog=f"python -m refusal_lightning {command}".strip(),
        description=about[:1].upper() + about[1:] + "." if about else None,
        exit_on_error=False,
        sections=sections,
    )
    if config_file:
        parser.add_argument(
            "--config",
            action="config",
            help="YAML file with the sections below; given twice, the later one wins.",
        )
    if command == "select":
        parser.add_argument(
            "--from-scores",
            type=Optional[str],
            metavar="FILE",
            help="Only choose, from a table of scores such as direction_evaluations.json; needs no model and no store.",
        )
        parser.add_argument("--json", action="store_true", help="With --from-scores: the choice as a last line of JSON.")
    for section in sections:
        parser.add_class_arguments(SECTIONS[section], section)
    return parser


def _known_keys() -> list[str]:
    return [f"{name}.{field.name}" for name, cls in SECTIONS.items() for field in dataclasses.fields(cls)]


def _with_hint(message: str) -> str:
    """Add `did you mean …?` to a parser's message that names an unknown key."""
    message = " ".join(message.split())
    unknown = re.search(
        r"(?:(?:Group|Subcommand) '(\w+)' )?(?:does not accept option|unrecognized arguments:)\s+['\"]?-*([\w.]+)",
        message,
    )
    if not unknown:
        return message
    known = [*_known_keys(), *SECTIONS]
    word = f"{unknown.group(1)}.{unknown.group(2)}" if unknown.group(1) in SECTIONS else unknown.group(2)
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if not near and "." not in word:
        near = [key for key in known if key.endswith(f".{word}")][:1]
    return f"{message}; did you mean {near[0]}?" if near and near[0] != word else message


def _parse(command: str, argv: Sequence[str]) -> dict[str, Any]:
    """The configuration objects of a subcommand, by section."""
    for flag, value in zip(argv, [*argv[1:], ""], strict=True):
        name = value if flag == "--config" else flag.removeprefix("--config=") if flag.startswith("--config=") else None
        if name is not None and not Path(name).is_file():
            raise UserError(f"configuration file {name!r} does not exist; configs/ holds examples")
    parser = _stage_parser(command, COMMANDS[command].sections)
    try:
        parsed = parser.parse_args(list(argv))
        objects = parser.instantiate(parsed)
    except (argparse.ArgumentError, jsonargparse.ArgumentError) as error:
        raise UserError(_with_hint(str(error.message))) from error
    except ValueError as error:  # a dataclass's own check
        raise UserError(" ".join(str(error).split())) from error
    return {name: value for name, value in objects.items() if name != "config"}


def _overview() -> str:
    lines = [f"refusal_lightning {__version__}: the refusal direction of chat models, measured.", ""]
    lines += ["usage: python -m refusal_lightning COMMAND --config FILE [--section.key VALUE ...]", ""]
    lines += [f"  {name:<10} {command.help}" for name, command in COMMANDS.items()]
    lines += [
        "",
        "COMMAND --help explains every key; COMMAND --print_config prints the configuration as read.",
    ]
    lines += ["--debug (anywhere) shows the traceback of an error."]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand. Returns the exit status: 0, 2 for a user's mistake, 1 for anything else."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    arguments = [a for a in arguments if a != "--debug"]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(__version__)
        return 0
    try:
        command, rest = arguments[0], arguments[1:]
        if command not in COMMANDS:
            near = difflib.get_close_matches(command, COMMANDS, n=1)
            hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(COMMANDS)}"
            raise UserError(f"unknown command {command!r}{hint}")
        sections = _parse(command, rest)
        target = COMMANDS[command].target
        scores, as_json = sections.pop("from_scores", None), sections.pop("json", False)
        if scores is not None:
            target = "refusal_lightning.stages.replay:replay_choice"
            sections = {"path": scores, "config": sections["select"], "as_json": as_json}
        module, name = target.split(":")
        run: Callable[..., None] = getattr(importlib.import_module(module), name)
        run(**sections)
        return 0
    except UserError as error:
        if debug:
            traceback.print_exc()
        return _fail(str(error), 2)
    except KeyboardInterrupt:
        return _fail("interrupted; start the same command again to continue", 130)
    except Exception as error:
        if debug:
            traceback.print_exc()
        text = " ".join(str(error).split()) or "no message"
        return _fail(f"{type(error).__name__}: {text} (run again with --debug for the traceback)", 1)


def _fail(message: str, status: int) -> int:
    print(f"refusal_lightning: error: {message}", file=sys.stderr, flush=True)
    return status
