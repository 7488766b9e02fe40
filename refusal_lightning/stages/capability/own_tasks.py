"""Task files of lm-evaluation-harness as data: what in them, or behind them, would run code is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from refusal_lightning.errors import UserError
from refusal_lightning.io.shipped import locate
from refusal_lightning.io.side_effects import replaced

_TRUST = "read it, then give --capability.trust_task_code true"


def require_no_functions(folder: Path) -> None:
    """Raise UserError where a task file, or one that it includes, names a Python function (`!function module.name`).

    The harness would import the module from beside the file, or from anywhere.
    """
    import lm_eval

    own = Path(lm_eval.__file__).parent
    waiting, seen = sorted(folder.rglob("*.yaml")), set()
    while waiting:
        path = waiting.pop().resolve()
        if path in seen or own in path.parents:  # the harness's own files are code that was installed
            continue
        seen.add(path)
        try:
            node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
        except (OSError, UnicodeDecodeError, yaml.YAMLError):
            continue  # the harness passes over it, or says what is wrong with it
        for tag, value in _scalars(node):
            if not tag.startswith("tag:yaml.org,2002:"):
                raise UserError(f"{path} names code ({tag} {value}): {_TRUST}")
        waiting += [path.parent / name for name in _includes(node)]


@contextmanager
def alone(trust: bool) -> Iterator[None]:
    """The harness starts no program, and finds shipped files; unless trusted to, it loads no metric from the Hub and
    renders in a sandbox.

    A metric that it does not have it would fetch as code and run, and its templates can reach all of Python; for its
    log it calls git and asks the machine for hardware and packages. Raises UserError where a task wants such a metric.
    """
    import datasets
    import evaluate
    import lm_eval.evaluator
    import lm_eval.utils
    from jinja2.sandbox import SandboxedEnvironment

    wanted: list[str] = []

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        wanted.append(name)  # the harness passes over the error
        raise UserError(name)

    changes: list[tuple[Any, str, Any]] = [
        (lm_eval.evaluator, "get_git_commit_hash", lambda: None),
        (lm_eval.evaluator, "add_env_info", lambda _: None),
        (datasets, "load_dataset", partial(_load_located, datasets.load_dataset)),
    ]
    if not trust:
        open_env = lm_eval.utils.env
        sandbox = SandboxedEnvironment(loader=open_env.loader, undefined=open_env.undefined, keep_trailing_newline=True)
        sandbox.filters.update(open_env.filters)
        changes += [(lm_eval.utils, "env", sandbox), (evaluate, "load", refuse)]
    with replaced(*changes):
        try:
            yield
        except Exception:
            if not wanted:
                raise
    if wanted:
        raise UserError(f"capability.tasks: the metric {wanted[0]!r} is code that would come from the Hub: {_TRUST}")


def _load_located(load: Callable[..., Any], *args: Any, data_files: Any = None, **kwargs: Any) -> Any:
    """A dataset whose files, a name or a list of them or a mapping of such, may be shipped ones."""
    return load(*args, data_files=_located(data_files), **kwargs)


def _located(files: Any) -> Any:
    if isinstance(files, dict):
        return {split: _located(one) for split, one in files.items()}
    if isinstance(files, list):
        return [_located(one) for one in files]
    return str(locate(files)) if isinstance(files, str) else files


def _scalars(node: Any) -> Iterator[tuple[str, Any]]:
    """Tag and text of every node of a YAML document."""
    waiting, seen = [node], set()
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, yaml.ScalarNode):
            yield one.tag, one.value
            continue
        yield one.tag, ""
        waiting += [part for pair in one.value for part in pair] if isinstance(one, yaml.MappingNode) else one.value


def _includes(node: Any) -> list[str]:
    """The files that a task file names under `include`."""
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    named = [value for key, value in pairs if key.value == "include"]
    return [
        str(one.value)
        for value in named
        for one in (value.value if isinstance(value, yaml.SequenceNode) else [value])
        if isinstance(one, yaml.ScalarNode)
    ]
