"""The site builds without a warning, is whole, and asks nothing of another host when it is read."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest
from built_site import build, requests_elsewhere
from nodes import ROOT

import refusal_lightning
from refusal_lightning.cli.commands import COMMANDS
from refusal_lightning.cli.sections import SECTIONS

pytest.importorskip("mkdocs", reason="needs the extra `docs`")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    done = build(folder := tmp_path_factory.mktemp("site"))
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_page_is_there(site):
    for page in (ROOT / "docs").rglob("*.md"):
        name = page.relative_to(ROOT / "docs")
        built = site / ("index.html" if str(name) == "README.md" else name.with_suffix(".html"))
        assert built.is_file(), name
    made = ("reference/commands", "reference/configuration", "reference/store", "project/changelog", "hpc")
    assert all((site / f"{name}.html").is_file() for name in made)


def test_nothing_is_loaded_from_another_host(site):
    assert list(requests_elsewhere(site)) == []
    assert not list(site.rglob("*.woff*"))
    assert not any('class="mermaid"' in page.read_text(encoding="utf-8") for page in site.rglob("*.html"))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.html", '<script src="https://cdn.example/x.js"></script>'),
        ("a.html", '<link rel="stylesheet" href="//fonts.example/css">'),
        ("a.html", '<link rel="preconnect" href="https://fonts.example">'),
        ("a.html", '<img srcset="a.png 1x, https://cdn.example/b.png 2x">'),
        ("a.html", '<p style="background: url(https://cdn.example/c.png)">'),
        ("a.html", "<style>@import 'https://fonts.example/css';</style>"),
        ("a.css", "@font-face { src: url('https://fonts.example/a.woff2') }"),
        ("a.js", 'import("https://cdn.example/y.js"); s.src="https://cdn.example/z.js"'),
    ],
)
def test_what_would_be_loaded_is_found(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    (tmp_path / "links.html").write_text('<a href="https://arxiv.org">x</a><link rel="canonical" href="https://a.b/">')
    assert list(requests_elsewhere(tmp_path))


def test_links_that_a_person_follows_are_no_requests(tmp_path):
    (tmp_path / "a.html").write_text('<a href="https://arxiv.org">x</a><link rel="canonical" href="https://a.b/">')
    assert not list(requests_elsewhere(tmp_path))


def test_the_reference_has_every_command_and_key(site):
    commands = (site / "reference" / "commands.html").read_text(encoding="utf-8")
    for name, command in COMMANDS.items():
        assert f'id="{name.replace(" ", "-")}"' in commands, name
        assert f"usage: python -m refusal_lightning {name}" in commands, name
        assert all(f"configuration.html#{section}" in commands for section in command.sections)
    keys = (site / "reference" / "configuration.html").read_text(encoding="utf-8")
    for section, kind in SECTIONS.items():
        for field in dataclasses.fields(kind):
            found = re.search(rf'id="{section}-{field.name}">.*?</h3>(.*?)<(?:h[123]|/article)', keys, re.DOTALL)
            assert found, f"{section}.{field.name}"
            assert len(re.sub(r"<[^>]+>|\s+", " ", found.group(1)).split()) > 5, (
                f"{section}.{field.name} is not explained"
            )


def test_the_reference_has_every_public_name(site):
    page = (site / "reference" / "api.html").read_text(encoding="utf-8")
    for name in refusal_lightning.__all__:
        assert f'id="refusal_lightning.{name}"' in page, name
    signature = re.search(r'id="refusal_lightning.load_model".*?</pre>', page, re.DOTALL)
    assert signature and "load_model" in signature.group() and "Model" in signature.group()


def test_keys_on_pages_lead_to_the_reference(site):
    page = (site / "selection.html").read_text(encoding="utf-8")
    assert 'href="reference/configuration.html#select-kl_threshold"' in page


def test_the_search_index_is_the_sites_own(site):
    index = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))
    found = {doc["location"].partition("#")[0] for doc in index["docs"] if "induce" in doc["text"]}
    assert {"method.html", "selection.html", "reference/configuration.html"} <= found
