"""What is written for those who carry on is true of the code: paths, registries, floors, versions."""

from __future__ import annotations

import importlib
import re
import tomllib

import pytest
import yaml
from nodes import ROOT

from refusal_lightning import __version__, plugins
from refusal_lightning.errors import UserError
from refusal_lightning.registry import Registry

DOCUMENTS = ("ARCHITECTURE.md", "CONTRIBUTING.md", "AGENTS.md")
SUFFIXES = (".py", ".md", ".toml", ".txt", ".yaml", ".cff")


def _text(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def _paths(text: str) -> set[str]:
    """Paths that a text names, in backticks or as links; `NAME` and `*` stand for something else."""
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    named = {span for span in spans if re.fullmatch(r"[\w./-]+", span) and ("/" in span or span.endswith(SUFFIXES))}
    links = {target.partition("#")[0] for target in re.findall(r"\]\(([^)]+)\)", text) if "://" not in target}
    return {path for path in named | links if path and "NAME" not in path}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_path_named_is_there(document):
    paths = _paths(_text(document))
    assert len(paths) > 3
    assert [path for path in sorted(paths) if not (ROOT / path).exists()] == []


def test_every_line_that_a_change_adds_to_is_there():
    """The table of ARCHITECTURE.md: the name of each registry stands in the file that is given with it."""
    rows = re.findall(r"^\| ([\w' ()]+) \| (.*?) \| (.*?) \| .*? \|$", _text("ARCHITECTURE.md"), re.MULTILINE)
    checked = 0
    for what, file, line in rows:
        name = re.match(r"`([A-Z_]+)` ", line)
        where = re.search(r"`([\w/]+\.py)`", line) or re.search(r"`([\w/]+\.py)`", file)
        if name:
            assert where, what
            assert re.search(rf"^{name.group(1)}\b", (ROOT / where.group(1)).read_text(), re.MULTILINE), what
            checked += 1
    assert checked >= 9


def test_the_floors_are_those_that_are_kept():
    contracts = tomllib.loads(_text("pyproject.toml"))["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    table = _text("ARCHITECTURE.md").partition("| floor |")[2].partition("\n\n")[0]
    rows = [re.findall(r"`(\w+)`", row.split("|")[1]) for row in table.splitlines()[2:]]
    assert rows == [re.findall(r"\w+", layer) for layer in layers]


REGISTRIES = re.findall(r"^\| .*? \| `(refusal_lightning[\w.]+)` \|", _text("docs/plugins.md"), re.MULTILINE)


@pytest.mark.parametrize("name", REGISTRIES)
def test_every_registry_is_where_the_page_on_plugins_says_and_open_to_them(name, tmp_path, monkeypatch):
    module, _, registry = name.rpartition(".")
    entries = getattr(importlib.import_module(module), registry)
    assert isinstance(entries, Registry)
    monkeypatch.setattr(entries, "_entries", dict(entries))
    monkeypatch.setattr(entries, "_plugins", {})
    monkeypatch.setattr(plugins, "_loaded", [])
    file = tmp_path / "mine.py"
    file.write_text(f"from {module} import {registry}\n{registry}.register('mine', object())\n")
    plugins.load_plugins([file])
    assert plugins.record()[0]["adds"] == [f"{entries.what} mine"]
    assert entries.origin("mine")["plugin"] == "mine.py"
    with pytest.raises(UserError, match=rf"there is no {entries.what} 'other'; there are .*, mine \(--plugins FILE"):
        entries["other"]


def test_the_page_on_plugins_has_every_registry():
    found = set()
    for path in (ROOT / "refusal_lightning").rglob("*.py"):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        made = re.findall(
            r"^([A-Z_]+)(?:: Registry\[.*\])? = Registry\(", path.read_text(encoding="utf-8"), re.MULTILINE
        )
        found |= {f"{module}.{name}" for name in made}
    assert found == set(REGISTRIES)


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load(_text("CITATION.cff"))
    assert citation["version"] == __version__
    assert citation["cff-version"] == "1.2.0"
    assert citation["references"][0]["url"].endswith(citation["references"][0]["identifiers"][0]["value"][6:])


def test_the_readme_leads_to_them():
    links = _paths(_text("README.md"))
    assert {*DOCUMENTS, "CITATION.cff", "examples/"} <= links
