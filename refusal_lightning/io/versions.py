"""Which software made a result."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Any

from refusal_lightning import __version__

NUMERICAL = ("torch", "transformers", "transformer-lens", "tokenizers")
"""Packages whose other versions may give other numbers for the same model and prompts."""
_PACKAGES = ("torch", "lightning", "transformer-lens", "transformers", "tokenizers", "zarr", "numpy")


def package_versions() -> dict[str, str]:
    """Versions of Python, of this package and of those that results may depend on."""
    packages = {name: version(name) for name in _PACKAGES}
    return {"python": platform.python_version(), "refusal_lightning": __version__, **packages}


def other_versions(made_with: Iterable[Mapping[str, Any]]) -> str:
    """Packages of which some result was made with another version than is installed here; empty if none is known.

    ``made_with`` are versions by package, as ``package_versions`` gives them.
    """
    here = package_versions()
    then: dict[str, set[str]] = {}
    for versions in made_with:
        for name in NUMERICAL:
            if name in versions and versions[name] != here[name]:
                then.setdefault(name, set()).add(str(versions[name]))
    return ", ".join(f"{name} {' and '.join(sorted(known))} (here {here[name]})" for name, known in then.items())
