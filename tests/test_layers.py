"""Imports run downwards only: the table of DESIGN, kept by a test."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "refusal_lightning"

# Each part may import itself, the parts listed, and errors.
MAY_IMPORT = {
    "cli": {"config", "stages", "data", "judges", "files"},
    "config": set(),
    "errors": set(),
    "files": set(),
    "network": set(),
    "side_effects": set(),
    "stages": {
        "files",
        "config",
        "modules",
        "writers",
        "store",
        "interventions",
        "models",
        "directions",
        "judges",
        "data",
        "report",
        "doctor",
        "planning",
        "network",
        "side_effects",
    },
    "doctor": {"directions", "interventions", "models", "modules"},
    "planning": {"modules"},
    "modules": {"interventions", "models", "directions"},
    "writers": {"modules", "store", "files"},
    "store": set(),
    "interventions": {"models"},
    "models": {"network", "side_effects"},
    "directions": set(),
    "judges": {"files"},
    "data": {"files", "network"},
    "report": {"directions"},
}


def _imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("refusal_lightning."):
            found.add(node.module.split(".")[1])
        if isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("refusal_lightning.")}
    return found


@pytest.mark.parametrize("part", sorted(MAY_IMPORT))
def test_imports_run_one_way(part: str) -> None:
    files = [PACKAGE / f"{part}.py"] if (PACKAGE / f"{part}.py").is_file() else sorted((PACKAGE / part).rglob("*.py"))
    assert files
    allowed = MAY_IMPORT[part] | {part, "errors"}
    wrong = {str(path.relative_to(PACKAGE)): _imports(path) - allowed for path in files if _imports(path) - allowed}
    assert not wrong


def test_every_part_is_listed() -> None:
    parts = {p.stem for p in PACKAGE.iterdir() if p.suffix == ".py" or (p / "__init__.py").is_file()}
    assert parts - {"__init__", "__main__"} == set(MAY_IMPORT)
