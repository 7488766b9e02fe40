"""Keywords of the API's functions are the keys of a configuration's sections, and held to the same types."""

from __future__ import annotations

import dataclasses
import difflib
import os
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, Union

from refusal_lightning.errors import UserError

Section = TypeVar("Section")


def section(kind: type[Section], values: Mapping[str, Any], name: str) -> Section:
    """A section of the configuration from keywords. ``name`` is what messages call it, such as "select".

    Raises UserError for a key that the section does not have, and for a value that it does not take.
    """
    hints = typing.get_type_hints(kind)
    for key in values:
        if key not in hints:
            near = difflib.get_close_matches(key, hints, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(hints)}"
            raise UserError(f"{name} has no key {key!r}; {hint}")
    try:
        return kind(**{key: _taken(value, hints[key], f"{name}.{key}") for key, value in values.items()})
    except (ValueError, TypeError) as error:  # the section's own checks, and a key that it cannot do without
        raise UserError(str(error)) from error


class _OtherKind(UserError):
    """A value is not of the type of its key."""


def _taken(value: Any, hint: Any, key: str) -> Any:
    """The value as the type has it. Raises _OtherKind."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return _first_taken(value, arguments, key, hint)
    if origin is Literal and any(value == each and type(value) is type(each) for each in arguments):
        return value
    if origin is list and isinstance(value, list | tuple):
        return [_taken(item, arguments[0], key) for item in value]
    if origin is dict and isinstance(value, Mapping):
        return {_taken(k, arguments[0], key): _taken(item, arguments[1], f"{key}.{k}") for k, item in value.items()}
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return section(typing.cast(type, hint), value, key)
    if hint is str and isinstance(value, os.PathLike):
        return os.fspath(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    plain = hint is Any or (isinstance(hint, type) and isinstance(value, hint))
    if plain and not (hint is int and isinstance(value, bool)):
        return value
    raise _OtherKind(f"{key} is {value!r:.100}; it must be {_in_words(hint)}")


def _first_taken(value: Any, hints: tuple[Any, ...], key: str, whole: Any) -> Any:
    """The value as the first of the types that takes it has it."""
    for hint in hints:
        try:
            return _taken(value, hint, key)
        except _OtherKind:
            continue
    raise _OtherKind(f"{key} is {value!r:.100}; it must be {_in_words(whole)}")


_WORDS: dict[Any, str] = {int: "a whole number", float: "a number", str: "a text", bool: "True or False"}


def _in_words(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_in_words(each) for each in arguments))
    if origin is Literal:
        return ", ".join(map(repr, arguments))
    if hint is types.NoneType:
        return "None"
    if origin is list:
        return "a list"
    return _WORDS.get(hint, "a mapping")


def keys_of(kind: type) -> tuple[str, ...]:
    """The keys of a section."""
    return tuple(field.name for field in dataclasses.fields(kind))


def divided(values: Mapping[str, Any], sections: Mapping[str, tuple[str, ...]]) -> dict[str, dict[str, Any]]:
    """Keywords by the section whose keys they are. Raises UserError for a keyword that is no key of any."""
    parts: dict[str, dict[str, Any]] = {name: {} for name in sections}
    for key, value in values.items():
        home = next((name for name, known in sections.items() if key in known), None)
        if home is None:
            every = [one for known in sections.values() for one in known]
            near = difflib.get_close_matches(key, every, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(every)}"
            raise UserError(f"there is no setting {key!r}; {hint}")
        parts[home][key] = value
    return parts
