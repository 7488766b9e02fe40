"""``import refusal_lightning as rl``: lazy, whole, documented."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import subprocess
import sys

import pytest
from nodes import ROOT

import refusal_lightning as rl

SOURCE = (ROOT / "refusal_lightning" / "__init__.py").read_text(encoding="utf-8")
PAGE = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", rl.__all__)
def test_every_public_name_is_there_and_documented(name):
    found = getattr(rl, name)
    assert inspect.getdoc(found)
    assert name in dir(rl)
    if inspect.isfunction(found):
        said = inspect.getdoc(found) or ""
        parameters = set(inspect.signature(found).parameters)
        assert [one for one in parameters if not re.search(rf"\b{one}\b", said)] == []


@pytest.mark.parametrize("name", [name for name in rl.__all__ if inspect.isclass(getattr(rl, name))])
def test_every_public_part_of_a_class_is_documented(name):
    kind = getattr(rl, name)
    source = inspect.getsource(kind)
    fields = {field.name for field in dataclasses.fields(kind)} if dataclasses.is_dataclass(kind) else set()
    own = [part for part in vars(kind) if not part.startswith("_") and part not in fields]
    undocumented = [part for part in own if not inspect.getdoc(inspect.getattr_static(kind, part))]
    assert undocumented == []
    tree = ast.parse(source)
    lines = source.splitlines()
    (body,) = [node.body for node in tree.body if isinstance(node, ast.ClassDef)]
    for node, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign) and dataclasses.is_dataclass(kind):
            said = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            assert said or "#" in lines[node.lineno - 1] or ast.unparse(node.target) in (inspect.getdoc(kind) or "")


def test_the_page_has_every_name_and_no_other():
    named = re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)
    assert sorted(named) == sorted(rl.__all__)


def test_editors_see_every_name():
    block = SOURCE.partition("if TYPE_CHECKING:")[2].partition("\n\n")[0]
    seen = dict(re.findall(r"import (\w+) as (\w+)", block))
    assert set(seen) == set(seen.values()) == set(rl.__all__)
    assert (ROOT / "refusal_lightning" / "py.typed").is_file()


def test_a_name_that_is_not_there():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = rl.nothing


def test_nothing_large_is_imported_before_a_name_is_used():
    code = (
        "import sys, refusal_lightning as rl; dir(rl)\n"
        "large = {'torch', 'numpy', 'transformers', 'lightning', 'pandas', 'xarray', 'zarr'}\n"
        "print(sorted(large & set(sys.modules)))\n"
        "rl.UserError\n"
        "print(sorted(large & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["[]", "[]"]
