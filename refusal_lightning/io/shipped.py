"""What travels with the package: configurations to begin with, and the sample prompts, texts and task.

In a clone, also one that is installed to be edited, they lie at its top, where people look. A wheel has them inside the
package.
"""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parents[1]
ROOT = _PACKAGE / "shipped" if (_PACKAGE / "shipped").is_dir() else _PACKAGE.parent
"""The folder that holds `configs/` and `dataset/sample/`."""
SAMPLE = Path("dataset", "sample")
"""The sample data, as configurations name them."""


def locate(path: str | Path) -> Path:
    """Where to read what a configuration names: a relative path below `dataset/sample` that is not there is shipped."""
    wanted = Path(path)
    if wanted.parts[:2] != SAMPLE.parts or wanted.exists():
        return wanted
    return ROOT / wanted if (ROOT / wanted).exists() else wanted


def configurations() -> list[str]:
    """The names of the shipped configurations: `demo` is configs/demo.yaml."""
    return sorted(path.stem for path in (ROOT / "configs").glob("*.yaml"))


def configuration(name: str) -> Path | None:
    """The shipped configuration that `demo`, `demo.yaml` or `configs/demo.yaml` names, None where there is none."""
    short = name.removeprefix("configs/").removesuffix(".yaml")
    return ROOT / "configs" / f"{short}.yaml" if short in configurations() else None
