"""Registries: what a configuration may name, one entry per name, open to users and their plugins."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Generic, TypeVar

from refusal_lightning.errors import UserError
from refusal_lightning.plugins import Plugin, loading

Spec = TypeVar("Spec")


class Registry(Mapping[str, Spec], Generic[Spec]):
    """Specs by name, in the order in which they were added. A name that is not there is a UserError with the known."""

    def __init__(self, what: str, entries: Mapping[str, Spec] | None = None) -> None:
        """``what`` is what one entry is, for messages: "judge"."""
        self.what = what
        self._entries: dict[str, Spec] = dict(entries or {})
        self._plugins: dict[str, Plugin] = {}

    def __getitem__(self, name: str) -> Spec:
        if name not in self._entries:
            raise UserError(self._unknown(name))
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def register(self, name: str, spec: Spec) -> Spec:
        """Add an entry. Raises UserError where the name is taken by another."""
        if self._entries.get(name, spec) is not spec:
            raise UserError(f"there is a {self.what} {name!r} already; choose another name")
        self._entries[name] = spec
        if plugin := loading():
            self._plugins[name] = plugin
            plugin.adds.append(f"{self.what} {name}")
        return spec

    def withdraw(self, name: str) -> None:
        """Take an entry away again."""
        del self._entries[name]
        self._plugins.pop(name, None)

    def require(self, names: Iterable[str], key: str) -> None:
        """Raise UserError where a configuration's key names what is not there."""
        for name in names:
            if name not in self._entries:
                raise UserError(f"{key}: {self._unknown(name)}")

    def origin(self, name: str) -> dict[str, str]:
        """The plugin that an entry is from, by name and hash, for what results depend on; empty for this package's."""
        return self._plugins[name].origin if name in self._plugins else {}

    def _unknown(self, name: str) -> str:
        return f"there is no {self.what} {name!r}; there are {', '.join(self)} (--plugins FILE adds your own)"
