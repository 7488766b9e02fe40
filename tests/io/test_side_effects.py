"""Nothing is installed, downloaded or told to anyone that the user did not ask for."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import tiny_tokenizer
from transformers import AutoConfig, AutoModelForImageTextToText, AutoTokenizer

from refusal_lightning.models import load_chat_model


@pytest.fixture(scope="module")
def multimodal_folder(tmp_path_factory) -> Path:
    """A tiny Gemma-3 that sees, without the file of its images' processor."""
    tokenizer = tiny_tokenizer()
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 512,
        "layer_types": ["sliding_attention", "full_attention"],
    }
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = AutoConfig.for_model(
        "gemma3", text_config=text, vision_config={**vision, "image_size": 8, "patch_size": 4}, mm_tokens_per_image=4
    )
    folder = tmp_path_factory.mktemp("multimodal")
    AutoModelForImageTextToText.from_config(config, dtype=torch.float32).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_multimodal_model_boots_in_the_environment_as_it_is(multimodal_folder, monkeypatch):
    """Without torchvision TransformerLens would run pip, or uv."""
    from transformer_lens.model_bridge.sources.transformers import helpers

    started: list[Any] = []

    def start(arguments: Any, *_: Any, **__: Any) -> Any:
        started.append(arguments)
        raise OSError("no programs here")

    monkeypatch.setitem(sys.modules, "torchvision", None)
    for name in ("Popen", "call", "check_call", "check_output", "run"):
        monkeypatch.setattr(subprocess, name, start)
    monkeypatch.setattr(os, "system", start)
    ours = helpers._ensure_torchvision
    chat = load_chat_model(str(multimodal_folder))
    engine = chat.engine("cpu")
    assert engine.bridge.cfg.is_multimodal
    assert started == []
    assert helpers._ensure_torchvision is ours  # a notebook that uses the library too finds it as it was


def test_no_question_whether_code_may_run(tiny_llama_folder, tmp_path, monkeypatch):
    """A judge's repository with code of its own is refused, not asked about on the terminal."""
    from refusal_lightning.judges.llama_guard import templated

    asked: list[Any] = []
    original = AutoTokenizer.from_pretrained

    def listen(*args: Any, **kwargs: Any) -> Any:
        asked.append(kwargs)
        return original(*args, **kwargs)

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", listen)
    templated(str(tiny_llama_folder))("a", "b")
    assert [given.get("trust_remote_code") for given in asked] == [False]


def test_the_libraries_switches(tmp_path):
    """They are set before a library reads them, and a user's own setting stays."""
    program = (
        "import os; import refusal_lightning; from huggingface_hub import constants\n"
        "print(constants.HF_HUB_DISABLE_TELEMETRY, os.environ['DISABLE_SAFETENSORS_CONVERSION'], "
        "os.environ['USE_HUB_KERNELS'])"
    )
    names = ("HF_HUB_DISABLE_TELEMETRY", "DISABLE_SAFETENSORS_CONVERSION", "USE_HUB_KERNELS")
    clean = {name: value for name, value in os.environ.items() if name not in names}
    for given, printed in (({}, "True 1 0"), ({"USE_HUB_KERNELS": "1"}, "True 1 1")):
        done = subprocess.run([sys.executable, "-c", program], env={**clean, **given}, capture_output=True, text=True)
        assert done.stdout.strip() == printed, done.stderr
