"""What is counted is what is there."""

from __future__ import annotations

import shutil
from pathlib import Path
from textwrap import dedent

import pytest
from count_code import PACKAGE, count, main

EQUAL = """
def {name}({a}, other):
    "What it does."
    {b} = {a} + 1
    if {b} > other:
        {b} = LIMIT{more}
    for _ in range({b}):
        print({b})
    return {b}
"""


@pytest.fixture
def checkout(tmp_path) -> Path:
    """Two parts that import each other, inside a function and for types alone; two functions that do the same."""
    files = {
        "__init__.py": "",
        "one/__init__.py": "",
        "one/maths.py": EQUAL.format(name="first", a="x", b="y", more="") + "\n\ndef late():\n    import {0}.two\n",
        "two.py": EQUAL.format(name="second", a="value", b="result", more="")
        + EQUAL.format(name="third", a="x", b="y", more=" + 1")
        + """
            from typing import TYPE_CHECKING
            if TYPE_CHECKING:
                from {0}.one import maths
            class Wide:
                def many(self, a, b, /, c, d, *rest, e, f, **more): ...
                def few(self, a, b, /, c, d, *, e, f, **more): ...
            """.replace("\n            ", "\n"),
        "long.py": "def long():\n" + "    print()\n" * 60 + "def short():\n" + "    print()\n" * 50,
    }
    for name, text in files.items():
        path = tmp_path / PACKAGE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text).replace("{0}", PACKAGE))
    return tmp_path


def test_counted(checkout):
    found = count(checkout)
    assert (found.files, found.functions, found.largest[0]) == (5, 8, "long.py")
    assert found.lines == sum(len(path.read_text().splitlines()) for path in checkout.rglob("*.py"))
    assert found.names == {
        "over 50 lines": ["long.long (61)", "long.short (51)"],
        "over 60 lines": ["long.long (61)"],
        "over 7 parameters": ["two.Wide.many (8)"],
        "circles of modules": ["one.maths <-> two"],
        "circles of parts": ["one <-> two"],
        "pairs of equal bodies": ["one.maths.first = two.second"],
    }


def test_two_checkouts_beside_each_other(checkout, monkeypatch, capsys):
    after = checkout / "after"
    shutil.copytree(checkout / PACKAGE, after / PACKAGE)
    (after / PACKAGE / "two.py").write_text("def narrow(): ...\n")
    monkeypatch.setattr("sys.argv", ["count_code.py", str(checkout), str(after)])
    main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == [str(checkout), str(after)]
    assert ["over", "7", "parameters", "1", "0"] in [line.split() for line in lines]
    assert ["circles", "of", "parts", "1", "0"] in [line.split() for line in lines]
    assert lines.count("  circles of parts: one <-> two") == 1
