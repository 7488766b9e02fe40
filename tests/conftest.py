"""Settings and fixtures of all tests. No test may reach the hub; downloaded once are the demo model and, where npm is,
real tokenizers."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch
from tiny_models import save_tiny_model

from refusal_lightning.models import weights
from refusal_lightning.models.checkpoint import Checkpoint
from refusal_lightning.models.demo import demo_model_folder
from refusal_lightning.models.engines.bridge import BridgeEngine

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


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The dtypes of the weights that were loaded."""
    loaded: list[str] = []
    load = weights.load_bridge

    def noted(checkpoint: Checkpoint, device: str | torch.device) -> BridgeEngine:
        loaded.append(checkpoint.dtype)
        return load(checkpoint, device)

    monkeypatch.setattr(weights, "load_bridge", noted)
    return loaded


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


@pytest.fixture(scope="session")
def s3() -> Iterator[dict[str, Any]]:
    """Storage options of an S3 server with an empty bucket `bucket`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "MOTO_ALLOW_NONEXISTENT_REGION": "1"},
    )
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(urllib.request.Request(f"{url}/bucket", method="PUT"), timeout=5)
                break
            except OSError:
                assert server.poll() is None
                time.sleep(0.1)
        yield {"key": "test", "secret": "test", "client_kwargs": {"endpoint_url": url, "region_name": "us-east-1"}}
    finally:
        server.terminate()
        server.wait()


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A disk of 3 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)
