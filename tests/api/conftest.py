"""One run by the command line, and the same through the API."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

import refusal_lightning as rl
from refusal_lightning.cli import main
from runs import write_config, write_data


@dataclass
class Made:
    """A run of the command line: its folder, and its configuration."""

    run: Path
    config: dict[str, dict[str, Any]]
    path: str


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Callable[[str], Path]) -> Made:
    """All stages on the tiny Llama; only to be read."""
    folder = tmp_path_factory.mktemp("api")
    data = write_data(folder / "data")
    changes = {"select": {"answer_kl_tokens": 2}, "analyze": {"bootstrap": 20}}
    path = write_config(folder, tiny_folder("llama"), data, **changes)
    for stage in ("cache", "select", "evaluate", "analyze"):
        assert main([stage, "--config", path]) == 0
    return Made(folder / "runs" / "tiny", yaml.safe_load(Path(path).read_text()), path)


@pytest.fixture(scope="session")
def tiny(tiny_run: Made) -> rl.Model:
    """The same model, through the API."""
    return rl.load_model(**tiny_run.config["model"], device="cpu", progress_bar=False)
