"""README.md is true: its ten lines run, its commands parse, its picture is a small one with a text in its place."""

from __future__ import annotations

import functools
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from doc_examples import copy_of, examples
from nodes import ROOT

import refusal_lightning as rl
from refusal_lightning.cli.parsing import parse
from runs import instructions

README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^refusal-lightning +((?!init)\w.*?)(?: +#.*)?$", README, re.MULTILINE)


def test_the_ten_lines_run(clone, tmp_path, monkeypatch, capsys):
    """On a tiny random model, which neither refuses nor begins a refusal: no rule, and a token that is given."""
    (example,) = examples(README)
    code = example.code.replace("Qwen/Qwen2.5-1.5B-Instruct", "path/to/model")
    assert code != example.code and len(code.splitlines()) <= 10
    monkeypatch.chdir(copy_of(clone, tmp_path / "clone"))
    rules: dict[str, Any] = dict.fromkeys(
        ("harmful_threshold", "harmless_threshold", "kl_threshold", "induce_threshold")
    )
    monkeypatch.setattr(rl, "select", functools.partial(rl.select, **rules))
    monkeypatch.setattr(rl, "cache", functools.partial(rl.cache, n_train=8, n_val=3))
    monkeypatch.setattr(rl, "load_model", functools.partial(rl.load_model, refusal_tokens=["I"], device="cpu"))
    kinds = {kind: [row["instruction"] for row in instructions(kind, "train", 12)] for kind in ("harmful", "harmless")}
    exec(compile(code, "README.md", "exec"), {"__name__": "__main__", **kinds})
    printed = capsys.readouterr().out
    assert "harmful_test" in printed


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_parse(line, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # where no configuration is: the shipped ones are meant
    command, *arguments = shlex.split(line)
    parse(command, arguments)


def test_there_are_commands():
    assert {line.split()[0] for line in COMMANDS} >= {"run", "cache", "select", "evaluate"}
    assert "```sh\nmake demo\nmake test\n```" in README


def test_links_lead_somewhere():
    links = [target for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", README) if "://" not in target]
    assert len(links) > 20
    assert [target for target in links if not (ROOT / target).exists()] == []


def test_the_picture_is_small_and_said_in_words():
    ((text, name),) = re.findall(r"!\[([^\]]+)\]\(([^)]+)\)", README)
    picture = Path(ROOT / name)
    assert picture.stat().st_size < 100_000
    assert len(text.split()) > 10
    assert "http" not in re.sub(
        r'(xmlns(:\w+)?="[^"]+"|<!DOCTYPE[^>]*>|<rdf:RDF.*?</rdf:RDF>)', "", picture.read_text(), flags=re.DOTALL
    )
