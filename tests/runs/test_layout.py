"""The layout of a run's folder: every file that it names is some stage's, so that none is left when it is moved."""

from __future__ import annotations

import inspect
from pathlib import Path

from refusal_lightning.runs.folder import FILES, RunFolder

FOLDERS = {"journals", "results", "estimators", "stale", "journal"}


def test_every_file_is_some_stages():
    run, named = RunFolder("", "run"), {}
    for name, member in inspect.getmembers(RunFolder):
        if isinstance(member, property):
            named[name] = getattr(run, name)
        elif inspect.isfunction(member) and inspect.signature(member).return_annotation == "Path":
            n_arguments = len(inspect.signature(member).parameters) - 1
            named[name] = member(run, *["json"] * n_arguments)
    files: dict[str, Path] = {name: path for name, path in named.items() if name not in {*FOLDERS, "record"}}
    assert len(files) >= 17
    patterns = [pattern for some in FILES.values() for pattern in some]
    assert [name for name, path in files.items() if not any(path.match(pattern) for pattern in patterns)] == []
