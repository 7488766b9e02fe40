"""Every package that is imported is declared, in the package's dependencies or an extra, and every extra is used."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import sys
import tomllib
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

import pytest
from nodes import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PARTS = {
    "s3": ("store/backend/",),
    "capability": ("stages/capability/",),
    "notebook": ("api/", "io/notebook.py", "report/", "stages/"),  # for types; io/notebook.py imports them
    "wandb": ("loggers/wandb.py",),
}
"""The extras that only a part of the package needs, and which one. `tensorboard` is imported by Lightning."""
OF_LIGHTNING = {"ipywidgets"}
"""Imported by Lightning's bar in a notebook."""
TOOLS = ("dev", "docs")
"""The extras for those who change the package."""


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _names(requirements: Iterable[str]) -> set[str]:
    """The distributions that requirements name; for extras of the package itself what those name."""
    names = set()
    for requirement in requirements:
        name, extras = re.findall(r"^([\w.-]+)(?:\[([\w,]+)\])?", requirement)[0]
        if _normal(name) == PROJECT["name"]:
            names |= {one for extra in extras.split(",") for one in _declared(extra)}
        else:
            names.add(_normal(name))
    return names


def _declared(extra: str = "") -> set[str]:
    return _names(PROJECT["optional-dependencies"][extra] if extra else PROJECT["dependencies"])


@cache
def _distributions() -> dict[str, set[str]]:
    return {
        module: {_normal(name) for name in of} for module, of in importlib.metadata.packages_distributions().items()
    }


def _imports(folder: Path) -> set[tuple[str, str]]:
    """File and top-level module of every import, in functions and for types too."""
    found = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            named = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                named = [node.module or ""]
            found |= {(path.relative_to(folder).as_posix(), name.partition(".")[0]) for name in named}
    return found


def _undeclared(folder: str, declared: Callable[[str], set[str]], own: set[str]) -> list[str]:
    wrong = []
    for file, module in sorted(_imports(ROOT / folder)):
        if module in sys.stdlib_module_names or module in own or module == "refusal_lightning":
            continue
        if not _distributions().get(module, {_normal(module)}) & declared(file):
            wrong.append(f"{folder}/{file} imports {module}")
    return wrong


def test_what_the_package_imports_is_declared():
    def declared(file: str) -> set[str]:
        extras = [extra for extra, part in PARTS.items() if file.startswith(part)]
        return _declared().union(*(_declared(extra) for extra in extras))

    assert _undeclared("refusal_lightning", declared, set()) == []


@pytest.mark.parametrize("folder", ["tests", "scripts", "benchmarks", "examples"])
def test_what_tests_and_tools_import_is_declared(folder):
    everything = _declared().union(*(_declared(extra) for extra in PROJECT["optional-dependencies"]))
    own = {path.stem for name in ("tests", "scripts", "benchmarks") for path in (ROOT / name).rglob("*.py")}
    assert _undeclared(folder, lambda _: everything, own) == []


@pytest.mark.parametrize("extra", PARTS)
def test_every_extra_is_used(extra):
    """By the part that it is for, and not by the package anyway."""
    used = {module for file, module in _imports(ROOT / "refusal_lightning") if file.startswith(PARTS[extra])}
    distributions = set().union(*(_distributions().get(module, set()) for module in used))
    assert _declared(extra) - _declared() - distributions - OF_LIGHTNING == set()


def test_the_tested_versions_have_every_dependency():
    pinned = {_normal(line.partition("==")[0]) for line in (ROOT / "constraints.txt").read_text().splitlines()}
    everything = _declared().union(*(_declared(extra) for extra in PROJECT["optional-dependencies"]))
    assert everything - pinned == set()
