"""Plugins: Python files of the user's own that add entries to registries, given on the command line or loaded by name.

A plugin is code, so a configuration, which is data, never names one. What is executed is what was hashed, and the hash
goes where results are recorded.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from refusal_lightning.errors import UserError
from refusal_lightning.io.hashing import sha256_of
from refusal_lightning.io.text import one_line

MEND = "mend the plugin, or leave it out (--debug shows the traceback)"


@dataclass
class Plugin:
    """A file that was executed."""

    file: Path
    """As it was named."""
    path: Path
    """Absolute."""
    sha256: str
    """Of the file itself; what it imports is not in it."""
    adds: list[str] = field(default_factory=list)
    """What it added, as `judge word_count`."""

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def origin(self) -> dict[str, str]:
        """What results of its entries depend on."""
        return {"plugin": self.name, "sha256": self.sha256}


_loaded: list[Plugin] = []
_loading: list[Plugin] = []  # at most one


def load_plugins(files: Iterable[str | Path]) -> None:
    """Execute Python files, in order, each once. They add entries: ``JUDGES.register("word_count", ...)``.

    Raises UserError, with file and line, for one that cannot be read, fails or adds nothing.
    """
    for file in files:
        _load(Path(file))


@contextmanager
def of_session(name: str, version: str) -> Iterator[None]:
    """What is registered in the body is code of this session that no file holds, so its ``version`` stands for it."""
    plugin = Plugin(Path(name), Path(name), version)
    _loading.append(plugin)
    try:
        yield
    finally:
        _loading.pop()
    _loaded[:] = [one for one in _loaded if one.name != name] + [plugin]


def loading() -> Plugin | None:
    """The plugin that is being executed, if one is."""
    return _loading[-1] if _loading else None


def in_short() -> str:
    """The plugins of this process as one text, for processes to compare."""
    return ", ".join(f"{one.name} (sha256 {one.sha256[:12]})" for one in _loaded) or "none"


def record() -> list[dict[str, object]]:
    """The plugins of this process for a record of how results came about, in the order in which they were loaded."""
    return [{"name": one.name, "sha256": one.sha256, "adds": list(one.adds)} for one in _loaded]


def changed(recorded: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """What to say of plugins that made earlier results, by a ``record``, and have other content here."""
    for then in recorded:
        for now in (one for one in _loaded if one.name == then["name"] and one.sha256 != then["sha256"]):
            yield f"{now.file} has changed (sha256 {now.sha256[:12]}, and {str(then['sha256'])[:12]} then)"


def line_in_plugin(error: BaseException) -> str | None:
    """The innermost line of a plugin that an error came through, as `my_judges.py, line 12`."""
    files = {str(one.path): one.file for one in _loaded}
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in files]
    return f"{files[frames[-1].filename]}, line {frames[-1].lineno}" if frames else None


def _load(file: Path) -> None:
    path = file.resolve()
    try:
        code = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"--plugins: there is no file {str(file)!r}") from None
    except OSError as error:
        raise UserError(f"--plugins: {str(file)!r} cannot be read: {error.strerror}; name a Python file") from error
    plugin = Plugin(file, path, sha256_of(code))
    if any(one.path == path and one.sha256 == plugin.sha256 for one in _loaded):
        return
    _loaded.append(plugin)
    _loading.append(plugin)
    try:
        _execute(code, plugin)
    except UserError:
        _loaded.remove(plugin)
        raise
    finally:
        _loading.pop()


def _execute(code: bytes, plugin: Plugin) -> None:
    module = ModuleType(f"_plugin_{plugin.path.stem}_{plugin.sha256[:8]}")
    module.__file__ = str(plugin.path)
    sys.modules[module.__name__] = module  # where dataclasses look the annotations of a class up
    try:
        # Without this file's own `from __future__`, which would change what the plugin's annotations are.
        exec(compile(code, str(plugin.path), "exec", dont_inherit=True), vars(module))
    except UserError as error:
        raise UserError(f"{line_in_plugin(error) or plugin.file}: {error}") from error
    except (Exception, SystemExit) as error:
        where = line_in_plugin(error) or str(plugin.file)
        if isinstance(error, SyntaxError) and error.filename == str(plugin.path):
            where = f"{plugin.file}, line {error.lineno}"
        text = one_line(error) or "no message"
        raise UserError(f"{where}: {type(error).__name__}: {text}; {MEND}") from error
    if not plugin.adds:
        raise UserError(
            f"{plugin.file} adds nothing; a plugin adds entries to registries when it is executed, as "
            'JUDGES.register("NAME", …) does (examples/own_judge.py)'
        )
