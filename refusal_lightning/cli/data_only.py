"""A configuration is data: nothing in a file or a value can import, construct or run anything.

The parser has notations of its own for an object to build (`class_path: …`, a dotted name in place of a mapping). They
are switched off where it would import, and refused by name, so that what is off is never passed over in silence.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from typing import Any

import jsonargparse

from refusal_lightning.errors import UserError

_NOTATIONS = frozenset({"class_path", "init_args", "dict_kwargs", "__path__"})
"""Keys by which the parser knows an object that it is to build."""

_SWITCHES = ("model.trust_remote_code", "capability.trust_task_code")
"""The keys that let code run. A file is passed on, with a paper say; whoever starts the command has to say yes."""


def switch_off_imports() -> None:
    """The parser imports no name that a value holds, builds nothing under free mappings, and reads no URL.

    What it may look up is this package's own settings, which it does for a mapping in a mapping.
    """
    jsonargparse.set_parsing_settings(
        import_path_denylist=["*"],
        import_path_allowlist=["refusal_lightning.config"],
        instantiate_subclass_spec_in_any=False,
        config_read_mode_urls_enabled=False,
        config_read_mode_fsspec_enabled=False,
    )


def require_data(value: Any, where: str = "") -> None:
    """Raise UserError where a mapping, however deep, or a dotted key has a name that stands for an object to build."""
    for path in _paths(asdict(value) if is_dataclass(value) and not isinstance(value, type) else value, where):
        _require_plain_path(path)


def require_plain_flags(argv: Sequence[str], sections: Sequence[str]) -> None:
    """Raise UserError for a flag with such a name, and for one that would read a whole section from a file."""
    for word in argv:
        flag = word.partition("=")[0]
        if not flag.startswith("--"):
            continue
        _require_plain_path(flag[2:])
        if flag[2:] in sections:
            raise UserError(f"{flag} is a section: give its keys ({flag}.KEY VALUE), or a whole file to --config")


def require_switches_asked_for(values: Mapping[str, Any], argv: Sequence[str]) -> None:
    """Raise UserError where a switch that lets code run is on, and the command line is not what turned it on."""
    asked = {word.partition("=")[0] for word in argv}
    for switch in _SWITCHES:
        section, _, key = switch.partition(".")
        if getattr(values.get(section), key, False) and f"--{switch}" not in asked:
            raise UserError(
                f"{switch} lets code run, so a file cannot turn it on: read that code, then give --{switch} true on "
                "the command line"
            )


def require_no_plugins(content: Mapping[str, Any], path: str) -> None:
    """Raise UserError where a file names plugins."""
    for key in (key for key in content if str(key).partition(".")[0] == "plugins"):
        raise UserError(
            f"{path}: `{key}` is no key: a plugin is code, so a file cannot name one; read it, then give "
            "--plugins FILE on the command line"
        )


def _require_plain_path(path: str) -> None:
    names = path.split(".")
    found = next((i for i, name in enumerate(names) if name.rstrip("+") in _NOTATIONS), None)
    if found is not None:
        raise UserError(
            f"{'.'.join(names[: found + 1])} is no key: a configuration is data, and nothing in it is imported or "
            "constructed"
        )


def _paths(value: Any, where: str) -> Iterator[str]:
    """The dotted names of all keys below a value, once each: YAML may name a part again, in itself even."""
    waiting, seen = [(value, where)], set[int]()
    while waiting:
        one, path = waiting.pop()
        if not isinstance(one, Mapping | list | tuple | set) or id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, Mapping):
            below = [(item, f"{path}.{key}" if path else str(key)) for key, item in one.items()]
            yield from (name for _, name in below)
        else:
            below = [(item, path) for item in one]
        waiting += below
