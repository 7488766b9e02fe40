"""A tiny model of an architecture, saved as a user would have it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from architectures import N_LAYERS, TINY
from tiny_models import D_MODEL, tiny_sizes, tiny_tokenizer
from transformers import AutoConfig


def save_specimen(name: str, folder: Path) -> Path:
    """Save a random float32 model of an architecture and the tiny tokenizer. Returns the folder."""
    tiny, tokenizer = TINY[name], tiny_tokenizer()
    tokens = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    common = {
        **tiny_sizes(tokenizer),
        "num_hidden_layers": N_LAYERS,
        **tokens,
    }
    settings = {key: value for key, value in {**common, **tiny.settings}.items() if value is not None}
    if tiny.vision is None:
        config = AutoConfig.for_model(tiny.model_type, **settings)
    else:
        config = AutoConfig.for_model(
            tiny.model_type, text_config=settings, vision_config=tiny.vision, **tokens, **tiny.whole
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = _class_of(name)._from_config(config, attn_implementation="eager", dtype=torch.float32)
        _randomise(model)
    model.generation_config.eos_token_id = [tokenizer.eos_token_id]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    path = folder / "config.json"
    saved = {key: value for key, value in json.loads(path.read_text()).items() if key not in tiny.unsaved}
    path.write_text(json.dumps({**saved, "architectures": [name]}))
    return folder


def _class_of(name: str) -> Any:
    return getattr(transformers, TINY[name].class_name or name)


def _randomise(model: Any) -> None:
    """Weights that let every block matter; norms, recurrences and gates stay near their own start."""
    embedding = model.get_input_embeddings().weight
    tied = embedding is getattr(model.get_output_embeddings(), "weight", None)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            last = name.split(".")[-2:]
            if weight is embedding:
                weight.normal_(std=D_MODEL**-0.5 if tied else 1.0)
            elif weight.dim() >= 2 and "A_log" not in name:
                weight.normal_(std=1.5 / weight.shape[-1] ** 0.5)
            elif "bias" not in last[-1] and weight.dim() == 1:
                weight.add_(torch.randn_like(weight) * 0.2)
            elif weight.dim() == 1:
                weight.add_(torch.randn_like(weight) * 0.1)


def plain_model(name: str, folder: Path) -> Any:
    """The saved model as transformers loads it."""
    model = _class_of(name).from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    return model.eval().requires_grad_(False)
