"""Figures of the package's code, for one checkout or several beside each other.

    python scripts/count_code.py ROOT [ROOT ...]

Lines and files; the share of the largest part (the folders and modules right under the package); functions of more
than 50 and 60 lines, docstring included; functions of more than 7 parameters; circles of imports among modules, and
among the parts of each package, with the imports in functions and under TYPE_CHECKING; pairs of functions with equal
bodies. Bodies are compared from ``MIN_STATEMENTS`` statements or ``MIN_LINES`` lines on, without docstrings, and
whatever their own variables are called.
"""

from __future__ import annotations

import argparse
import ast
import copy
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from unittest.mock import patch

import grimp

PACKAGE = "refusal_lightning"
MIN_STATEMENTS = 5
MIN_LINES = 8

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Counted:
    """What was counted in a checkout."""

    lines: int
    files: int
    largest: tuple[str, float]
    """The largest part and its share of the lines."""
    functions: int
    names: Mapping[str, list[str]]
    """By what was looked for, the name of each place."""


def main() -> None:
    """Count and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("roots", nargs="+", type=Path, metavar="ROOT", help="a checkout")
    counted = {str(root): count(root) for root in parser.parse_args().roots}
    rows: dict[str, list[str]] = {
        "": list(counted),
        "lines": [f"{c.lines:,}" for c in counted.values()],
        "files": [str(c.files) for c in counted.values()],
        "largest part": [f"{c.largest[0]} {c.largest[1]:.1%}" for c in counted.values()],
        "functions": [f"{c.functions:,}" for c in counted.values()],
    }
    for what in next(iter(counted.values())).names:
        rows[what] = [str(len(c.names[what])) for c in counted.values()]
    width = max(len(cell) for row in rows.values() for cell in row) + 2
    for what, row in rows.items():
        print(f"{what:28}" + "".join(f"{cell:>{width}}" for cell in row))
    for root, found in counted.items():
        print(f"\n{root}")
        for what, names in found.names.items():
            for name in names:
                print(f"  {what}: {name}")


def count(root: Path) -> Counted:
    """Count in a checkout."""
    sources = {path: path.read_text(encoding="utf-8") for path in sorted((root / PACKAGE).rglob("*.py"))}
    parts: Counter[str] = Counter()
    functions: list[tuple[str, Function]] = []
    for path, text in sources.items():
        relative = path.relative_to(root / PACKAGE)
        parts[relative.parts[0]] += len(text.splitlines())
        module = ".".join(relative.with_suffix("").parts).removesuffix(".__init__")
        functions += [(f"{module}.{name}", function) for name, function in functions_of(ast.parse(text))]
    (largest, size), *_ = parts.most_common(1)
    modules, packages = circles(root)
    return Counted(
        lines=sum(parts.values()),
        files=len(sources),
        largest=(largest, size / sum(parts.values())),
        functions=len(functions),
        names={
            "over 50 lines": [f"{name} ({length(f)})" for name, f in functions if length(f) > 50],
            "over 60 lines": [f"{name} ({length(f)})" for name, f in functions if length(f) > 60],
            "over 7 parameters": [f"{name} ({n_parameters(f)})" for name, f in functions if n_parameters(f) > 7],
            "circles of modules": modules,
            "circles of parts": packages,
            "pairs of equal bodies": [" = ".join(pair) for pair in equal_pairs(functions)],
        },
    )


def functions_of(tree: ast.AST, inside: str = "") -> Iterator[tuple[str, Function]]:
    """Every function with its dotted name, methods and functions in functions too."""
    for node in ast.iter_child_nodes(tree):
        named = isinstance(node, Function | ast.ClassDef)
        name = f"{inside}{node.name}" if named else ""  # type: ignore[attr-defined]
        if isinstance(node, Function):
            yield name, node
        yield from functions_of(node, f"{name}." if named else inside)


def length(function: Function) -> int:
    """Lines from `def` to the end."""
    return (function.end_lineno or function.lineno) - function.lineno + 1


def n_parameters(function: Function) -> int:
    """Parameters, of a method without self."""
    given = function.args
    every = [*given.posonlyargs, *given.args, given.vararg, *given.kwonlyargs, given.kwarg]
    names = [argument.arg for argument in every if argument is not None]
    return len(names) - (names[:1] in (["self"], ["cls"]))


def circles(root: Path) -> tuple[list[str], list[str]]:
    """Circles of imports among the modules of a checkout, and among the parts of each of its packages."""
    with patch.object(sys, "path", [str(root.resolve()), *sys.path]), patch.dict(sys.modules):
        sys.modules.pop(PACKAGE, None)  # where one is imported, it would be taken for that of the checkout
        graph = grimp.build_graph(PACKAGE, exclude_type_checking_imports=False, cache_dir=None)
    among_modules = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    among_parts: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for importer, imported in ((a, b) for a, every in among_modules.items() for b in every):
        parent, first, second = _siblings(importer, imported)
        if first and second:  # else one is the other's package
            among_parts[parent][first].add(second)
    parts = [
        _shown(f"{parent}.{part}" for part in circle)
        for parent, edges in sorted(among_parts.items())
        for circle in strongly_connected(edges)
    ]
    return [_shown(circle) for circle in strongly_connected(among_modules)], parts


def _shown(circle: Iterable[str]) -> str:
    return " <-> ".join(module.removeprefix(f"{PACKAGE}.") for module in circle)


def _siblings(importer: str, imported: str) -> tuple[str, str, str]:
    """The package that two modules share, and the part of it that each is in."""
    first, second = importer.split("."), imported.split(".")
    shared = 0
    while shared < min(len(first), len(second)) and first[shared] == second[shared]:
        shared += 1
    return ".".join(first[:shared]), ".".join(first[shared : shared + 1]), ".".join(second[shared : shared + 1])


def strongly_connected(edges: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """Groups of two or more nodes of which each leads to each."""

    def reached(start: str) -> set[str]:
        found: set[str] = set()
        waiting = list(edges.get(start, ()))
        while waiting:
            if (node := waiting.pop()) not in found:
                found.add(node)
                waiting.extend(edges.get(node, ()))
        return found

    reach = {node: reached(node) for node in edges}
    groups = {
        frozenset({node, *(other for other in there if node in reach.get(other, ()))})
        for node, there in reach.items()
        if node in there
    }
    return sorted(sorted(group) for group in groups if len(group) > 1)


def equal_pairs(functions: Iterable[tuple[str, Function]]) -> list[tuple[str, str]]:
    """Pairs of functions that do the same, statement by statement."""
    by_body: dict[str, list[str]] = defaultdict(list)
    for name, function in functions:
        body = function.body[1:] if ast.get_docstring(function) is not None else function.body
        if not body:
            continue
        lines = (body[-1].end_lineno or 0) - body[0].lineno + 1
        statements = sum(isinstance(node, ast.stmt) for statement in body for node in ast.walk(statement))
        if lines >= MIN_LINES or statements >= MIN_STATEMENTS:
            by_body[_normalised(function, body)].append(name)
    return [pair for names in by_body.values() for pair in combinations(names, 2)]


def _normalised(function: Function, body: list[ast.stmt]) -> str:
    """A body as text, its own variables and parameters numbered in the order in which they appear."""
    given = [node.arg for node in ast.walk(function.args) if isinstance(node, ast.arg)]
    nodes = [node for statement in body for node in ast.walk(statement)]
    own = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    numbers = {name: f"_{i}" for i, name in enumerate(given)}

    class Renamed(ast.NodeTransformer):
        def visit_Name(self, node: ast.Name) -> ast.Name:
            if node.id in own or node.id in numbers:
                return ast.Name(numbers.setdefault(node.id, f"_{len(numbers)}"), node.ctx)
            return node

    return "\n".join(ast.dump(Renamed().visit(copy.deepcopy(statement))) for statement in body)


if __name__ == "__main__":
    main()
