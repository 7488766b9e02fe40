"""What the libraries underneath would do that nobody asked for, switched off."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_SWITCHES = {
    "DISABLE_SAFETENSORS_CONVERSION": "1",  # transformers asks a robot to open a pull request at the model's repository
    "HF_HUB_DISABLE_TELEMETRY": "1",  # huggingface_hub tells the Hub which libraries and versions run here
    "HF_UPDATE_DOWNLOAD_COUNTS": "0",  # evaluate counts what is loaded
    "WANDB_ERROR_REPORTING": "false",  # wandb tells its makers of errors and of which features are used
    "USE_HUB_KERNELS": "0",  # transformers, where `kernels` is installed, runs compiled code from the Hub
}


def switch_off() -> None:
    """Set the libraries' own switches, where the user has not set them; most are read when a library is imported."""
    for name, value in _SWITCHES.items():
        os.environ.setdefault(name, value)


@contextmanager
def no_processors() -> Iterator[None]:
    """TransformerLens boots a model without the processor of its images and sounds, which no text needs.

    It would read it of the Hub's main branch whatever the revision, and where that fails install torchvision with pip,
    which may bring another torch.
    """
    from transformer_lens.model_bridge.sources.transformers import helpers, source

    with replaced(
        (source, "load_modality_processor", lambda *_, **__: None),
        (helpers, "_ensure_torchvision", lambda: False),
    ):
        yield


@contextmanager
def replaced(*changes: tuple[Any, str, Any]) -> Iterator[None]:
    """Attributes of a library, each as (owner, name, value), with other values for a while."""
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in changes]
    try:
        for owner, name, value in changes:
            setattr(owner, name, value)
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)
