"""What `mkdocs build` adds to docs/: pages made from code, and those that lie elsewhere in the repository."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import site_reference
from mkdocs.structure.files import File, Files
from site_markdown import fitted

ROOT = Path(__file__).resolve().parents[1]

OUTSIDE = {
    "README.md": "README.md",  # the repository's own leads to the site's first page
    "ARCHITECTURE.md": "project/architecture.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "AGENTS.md": "project/agents.md",
    "CHANGELOG.md": "project/changelog.md",
    "dataset/sample/README.md": "project/sample.md",
    "hpc": "hpc.md",
    "hpc/README.md": "hpc.md",
}
"""What lies outside docs/, by its place in the repository, and its place on the site."""


def examples() -> dict[str, str]:
    """The examples, likewise: plugins and notebooks."""
    files = sorted(path for path in (ROOT / "examples").iterdir() if path.suffix in (".py", ".ipynb"))
    return {f"examples/{path.name}": f"examples/{path.stem}.md" for path in files}


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are not in docs/."""
    made = {uri: make() for uri, make in site_reference.PAGES.items()}
    for place, uri in {**OUTSIDE, **examples()}.items():
        if place.endswith(".md") and uri != "README.md":
            made[uri] = (ROOT / place).read_text(encoding="utf-8")
        elif place.startswith("examples/"):
            made[uri] = example_page(ROOT / place)
    for uri, text in made.items():
        files.append(File.generated(config, uri, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """A page with links that hold on the site, and with its configuration keys as links."""
    uri = page.file.src_uri
    outside = {place: there for place, there in {**OUTSIDE, **examples()}.items() if there != "README.md"}
    sources = {there: place for place, there in outside.items() if (ROOT / place).is_file()}
    inside = {f"docs/{file.src_uri}": file.src_uri for file in files.documentation_pages()}
    return fitted(
        markdown,
        sources.get(uri, f"docs/{uri}"),
        uri,
        {**inside, **OUTSIDE, **examples()},
        lambda place: (ROOT / place).exists(),
        frozenset() if uri == "reference/configuration.md" else site_reference.keys(),
    )


def example_page(path: Path) -> str:
    """A plugin with its code, or a notebook with its cells."""
    if path.suffix == ".py":
        code = path.read_text(encoding="utf-8")
        return f"# {path.stem}\n\n`examples/{path.name}` in the repository.\n\n```python\n{code}```\n"
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    parts = [_cell(cell["cell_type"], "".join(cell["source"])) for cell in cells]
    return "\n\n".join(parts) + "\n"


def _cell(kind: str, source: str) -> str:
    return f"```python\n{source}\n```" if kind == "code" else source
