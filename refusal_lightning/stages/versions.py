"""Which software made a result."""

from __future__ import annotations

import platform
from importlib.metadata import version

from refusal_lightning import __version__

_PACKAGES = ("torch", "lightning", "transformer-lens", "transformers", "tokenizers", "zarr", "numpy")


def package_versions() -> dict[str, str]:
    """Versions of Python, of this package and of those that results may depend on."""
    packages = {name: version(name) for name in _PACKAGES}
    return {"python": platform.python_version(), "refusal_lightning": __version__, **packages}
