"""The examples of the pages in docs/, and a folder in which they run on a tiny model.

An example is a fenced block with `<!-- tested -->` in front of it: `sh` and `python` are run, in the order of the page.
`<!-- tested: FILE -->` has the block written to a file, for those after it.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import yaml
from nodes import ROOT

from refusal_lightning.cli import main

_TESTED = re.compile(
    r"^(?P<indent> *)<!-- tested(?:: (?P<file>\S+))? -->\n"
    r"(?P=indent)```(?P<language>\w+)\n(?P<code>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
_PROGRAMS = (["python", "-m", "refusal_lightning"], ["refusal-lightning"])
# A random model has no tokens for refusals: `doctor` then says so by its status.
_MAY_FAIL = {"doctor": {0, 1}}


class Example(NamedTuple):
    """A block of a page."""

    language: str
    code: str
    file: str | None


def pages() -> list[str]:
    """All pages in docs/."""
    return sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))


def examples(text: str) -> list[Example]:
    """The examples of a page that are run, in their order."""
    return [
        Example(found["language"], textwrap.dedent(found["code"]), found["file"]) for found in _TESTED.finditer(text)
    ]


def commands(code: str) -> list[str]:
    """The commands of a shell example; what a loop or a quotation holds together stays together."""
    found: list[str] = []
    waiting = ""
    for line in code.replace("\\\n", " ").splitlines():
        waiting += line + "\n"
        if subprocess.run(["bash", "-n", "-c", waiting], capture_output=True).returncode == 0:
            found += [waiting.strip()] if waiting.strip() and not waiting.lstrip().startswith("#") else []
            waiting = ""
    return [*found, waiting.strip()] if waiting.strip() else found


def run_example(example: Example, folder: Path) -> None:
    """Run one in the folder, which is the process's. Raises AssertionError, or what the code raises."""
    if example.file is not None:
        path = folder / example.file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(example.code, encoding="utf-8")
    elif example.language == "python":
        exec(compile(example.code, "<example>", "exec"), {"__name__": "__main__"})
    else:
        assert example.language == "sh", example.language
        for command in commands(example.code):
            _run_command(command, folder)


def _run_command(command: str, folder: Path) -> None:
    """In this process where it is the program's own, which spares the imports; a plugin would stay in it."""
    for program in _PROGRAMS:
        words = shlex.split(command, comments=True) if "\n" not in command else []
        if words[: len(program)] == program and "--plugins" not in words:
            arguments = words[len(program) :]
            try:
                status = main(arguments)
            except SystemExit as end:  # --help and --print_config
                status = end.code if isinstance(end.code, int) else 1
            assert status in _MAY_FAIL.get(arguments[0], {0}), command
            return
    search = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PATH": search, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-euc", command], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"


def lay_out(folder: Path, model: Path) -> None:
    """What a clone has that pages name: configurations, sample prompts, examples; the demo's model is a tiny one."""
    shutil.copytree(ROOT / "configs", folder / "configs")
    shutil.copytree(ROOT / "examples", folder / "examples")
    shutil.copytree(ROOT / "dataset" / "sample", folder / "dataset" / "sample")
    (folder / "path" / "to").mkdir(parents=True)
    (folder / "path" / "to" / "model").symlink_to(model)
    demo = folder / "configs" / "demo.yaml"
    demo.write_text(yaml.safe_dump(tiny_demo(yaml.safe_load(demo.read_text()), model)))


def tiny_demo(demo: Mapping[str, dict], model: Path) -> dict[str, dict]:
    """The demo's configuration for a tiny random model, which no rule would let anything of through."""
    changes: dict[str, dict] = {
        "model": {"name": str(model)},
        "data": {"n_train": 8, "n_val": 3},
        "trainer": {"accelerator": "cpu", "progress_bar": False},
        "select": dict.fromkeys(("harmful_threshold", "harmless_threshold", "kl_threshold", "induce_threshold")),
        "evaluate": {"max_new_tokens": 3, "n_test": 6},
        "analyze": {"bootstrap": 20},
        "doctor": {"n_prompts": 3},
    }
    return {name: {**demo.get(name, {}), **changes.get(name, {})} for name in {**demo, **changes}}


def copy_of(folder: Path, target: Path) -> Path:
    """A copy that a page may change."""
    return Path(shutil.copytree(folder, target, symlinks=True))
