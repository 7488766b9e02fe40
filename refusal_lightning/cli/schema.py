"""A JSON schema of the configuration file, of its dataclasses, for editors that complete and check as one types."""

from __future__ import annotations

import dataclasses
import json
import types
from collections.abc import Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import docstring_parser

from refusal_lightning.cli.sections import SECTIONS

_PLAIN = {str: "string", int: "integer", float: "number", bool: "boolean", types.NoneType: "null"}


def schema() -> dict[str, Any]:
    """The schema (draft 7, which editors know): every section, every key with its text and default, and no other."""
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Configuration of refusal_lightning",
        "type": "object",
        "properties": {name: _of_section(cls) for name, cls in SECTIONS.items()},
        "additionalProperties": False,
    }


def schema_text() -> str:
    """The schema as the bytes of its file."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


def print_schema() -> None:
    """Print a JSON schema of the configuration file, for editors."""
    print(schema_text(), end="")


def documentation(cls: type) -> tuple[str, dict[str, str]]:
    """The line of text of a settings dataclass, and that of each of its keys."""
    parsed = docstring_parser.parse_from_object(cls)
    keys = {one.arg_name: " ".join((one.description or "").split()) for one in parsed.params}
    return (parsed.short_description or "").strip(), keys


def default_of(field: dataclasses.Field[Any]) -> Any:
    """What a key holds where nothing is given; `dataclasses.MISSING` where it has to be given."""
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def choices(hint: Any) -> list[str]:
    """The values that a key may have, as far as its type lists them; not those in lists and mappings."""
    if hint is bool:
        return ["true", "false"]
    if get_origin(hint) is Literal:
        return [str(value) for value in get_args(hint)]
    if get_origin(hint) in (Union, types.UnionType):
        return [value for one in get_args(hint) for value in choices(one)]
    return []


def _of_section(cls: type) -> dict[str, Any]:
    """A section, which may also be left empty."""
    of_class = _of_class(cls)
    return {**of_class, "type": ["object", "null"]}


def _of_class(cls: type) -> dict[str, Any]:
    about, texts = documentation(cls)
    hints = get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    required = [name for name, field in fields.items() if default_of(field) is dataclasses.MISSING]
    return {
        "description": about,
        "type": "object",
        "properties": {name: _of_field(field, hints[name], texts[name]) for name, field in fields.items()},
        "additionalProperties": False,
        **({"required": required} if required else {}),
    }


def _of_field(field: dataclasses.Field[Any], hint: Any, text: str) -> Mapping[str, Any]:
    default = default_of(field)
    given = {} if default is dataclasses.MISSING else {"default": default}
    return {"description": text, **_of_type(hint), **given}


def _of_type(hint: Any) -> dict[str, Any]:
    """Of one type; a type that no configuration uses is an error, so that a new one is added here."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return {}
    if hint in _PLAIN:
        return {"type": _PLAIN[hint]}
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return _of_class(hint)
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin in (Union, types.UnionType):
        return _of_union([_of_type(one) for one in arguments])
    if origin is list:
        return {"type": "array", "items": _of_type(arguments[0])}
    if origin is dict and arguments[0] is str:
        return {"type": "object", "additionalProperties": _of_type(arguments[1])}
    raise TypeError(f"no schema for the type {hint}")


def _of_union(types_: list[dict[str, Any]]) -> dict[str, Any]:
    """Plain types as one list of their names, which editors show best; else any of them."""
    if all(set(one) == {"type"} for one in types_):
        return {"type": [one["type"] for one in types_]}
    return {"anyOf": types_}
