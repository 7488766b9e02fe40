"""Settings and fixtures of all tests: no test may reach the hub, and none needs a download but the demo model's."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest
import torch
from tiny_models import save_tiny_model

from refusal_lightning.models.demo import demo_model_folder

# The models are tiny: more threads cost more than they bring.
torch.set_num_threads(1)
# Time limits per example fail on busy machines; fixed examples make a red test red again.
hypothesis.settings.register_profile("tests", deadline=None, derandomize=True)
hypothesis.settings.load_profile("tests")


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``tiny_folder(arch)``: the folder of a tiny model and its tokenizer, made once per session; only to be read."""
    made: dict[str, Path] = {}

    def folder(arch: str) -> Path:
        if arch not in made:
            made[arch] = save_tiny_model(arch, tmp_path_factory.mktemp("tiny") / f"tiny-{arch}")
        return made[arch]

    return folder


@pytest.fixture(scope="session")
def tiny_llama_folder(tiny_folder: Callable[[str], Path]) -> Path:
    """The folder of the tiny Llama."""
    return tiny_folder("llama")


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder `shared` beside the repository, with reference data; the test is skipped where there is none."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("needs the reference data in ../shared, which is not here")
    return folder


@pytest.fixture(scope="session")
def demo_folder() -> Path:
    """The folder of the demo model in the user's cache; the first session downloads and builds it."""
    return demo_model_folder()
