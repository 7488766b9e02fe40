"""The first generation of Qwen (Qwen-1.8B to 72B, `model_type: qwen`) as the second, whose architecture is the same.

Its own code is written for old releases of transformers. Its weights need other names only, and the fused query, key
and value projection to be cut in three. Two things it has and Qwen-2 has not, dynamic NTK scaling of the rotary base
and attention scaled by the logarithm of the length, begin to act beyond `seq_length` tokens: the context here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

from refusal_lightning.errors import UserError
from refusal_lightning.io.text import one_line

if TYPE_CHECKING:
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

MODEL_TYPE = "qwen"
_FILES = ("*.json", "*.safetensors", "pytorch_model*.bin")

_OUTSIDE = {
    "transformer.wte.weight": "model.embed_tokens.weight",
    "transformer.ln_f.weight": "model.norm.weight",
    "lm_head.weight": "lm_head.weight",
}
_IN_BLOCK = {
    "ln_1.weight": "input_layernorm.weight",
    "attn.c_proj.weight": "self_attn.o_proj.weight",
    "ln_2.weight": "post_attention_layernorm.weight",
    # The original's MLP is c_proj(w1(x) * silu(w2(x))).
    "mlp.w1.weight": "mlp.up_proj.weight",
    "mlp.w2.weight": "mlp.gate_proj.weight",
    "mlp.c_proj.weight": "mlp.down_proj.weight",
}
_DERIVED = (".rotary_emb.inv_freq", ".attn.masked_bias", ".attn.bias")
"""Buffers that follow from the configuration."""


def qwen1_config(original: Mapping[str, Any]) -> Qwen2Config:
    """The configuration as a Qwen-2 one. Raises UserError for a variant that is no plain Qwen chat model."""
    from transformers import Qwen2Config

    width, heads = original["hidden_size"], original["num_attention_heads"]
    plain = {
        "no_bias": original.get("no_bias", True),
        "kv_channels": original.get("kv_channels", width // heads) == width // heads,
        "rotary_pct": original.get("rotary_pct", 1.0) == 1.0,
        "scale_attn_weights": original.get("scale_attn_weights", True),
        "quantization_config": "quantization_config" not in original,
        "visual": "visual" not in original,
    }
    other = [key for key, as_usual in plain.items() if not as_usual]
    if other:
        raise UserError(
            f"this first-generation Qwen model has an unusual {other[0]!r} in its config.json: only plain chat models "
            "(no images, not quantised) are supported"
        )
    config = Qwen2Config(
        vocab_size=original["vocab_size"],
        hidden_size=width,
        intermediate_size=original["intermediate_size"] // 2,  # the original counts both halves of its gated MLP
        num_hidden_layers=original["num_hidden_layers"],
        num_attention_heads=heads,
        num_key_value_heads=heads,
        rms_norm_eps=original["layer_norm_epsilon"],
        rope_parameters={"rope_type": "default", "rope_theta": float(original.get("rotary_emb_base", 10000))},
        max_position_embeddings=original["seq_length"],
        tie_word_embeddings=original.get("tie_word_embeddings", False),
        eos_token_id=original.get("eos_token_id"),
    )
    config.architectures = ["Qwen2ForCausalLM"]
    return config


def qwen1_weights(original: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights under Qwen-2's names. Raises UserError for one that a Qwen chat model does not have."""
    renamed: dict[str, torch.Tensor] = {}
    for name, weight in original.items():
        block, _, inner = name.removeprefix("transformer.h.").partition(".")
        if name in _OUTSIDE:
            renamed[_OUTSIDE[name]] = weight
        elif inner in _IN_BLOCK:
            renamed[f"model.layers.{block}.{_IN_BLOCK[inner]}"] = weight
        elif inner in ("attn.c_attn.weight", "attn.c_attn.bias"):
            kind = inner.rpartition(".")[2]
            for part, third in zip("qkv", weight.chunk(3), strict=True):
                renamed[f"model.layers.{block}.self_attn.{part}_proj.{kind}"] = third
        elif not name.endswith(_DERIVED):
            raise UserError(f"the checkpoint holds {name!r}, which no plain first-generation Qwen chat model has")
    return renamed


def load_qwen1(
    source: str, revision: str | None, config: Qwen2Config, dtype: torch.dtype, **placement: Any
) -> Qwen2ForCausalLM:
    """The model, from a folder or the Hub. ``placement`` goes to transformers' ``from_pretrained``.

    Raises UserError where weights are missing or cannot be read.
    """
    from transformers import Qwen2ForCausalLM

    weights = qwen1_weights(_read_weights(_folder(source, revision)))
    loaded: Any = Qwen2ForCausalLM.from_pretrained(
        None, config=config, state_dict=weights, dtype=dtype, output_loading_info=True, **placement
    )
    model: Qwen2ForCausalLM = loaded[0]
    missing = sorted(loaded[1]["missing_keys"])
    if missing:
        raise UserError(
            f"the checkpoint of {source!r} lacks {len(missing)} weights, {missing[0]!r} (as Qwen-2 names it) among "
            "them; download it again"
        )
    return model


def _folder(source: str, revision: str | None) -> Path:
    if Path(source).is_dir():
        return Path(source)
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(source, revision=revision, allow_patterns=list(_FILES)))


def _read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor of the folder's safetensors files, or of its PyTorch files where there are none of these."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    if not files:
        raise UserError(f"{folder} holds no weights (*.safetensors or pytorch_model*.bin)")
    weights: dict[str, torch.Tensor] = {}
    for path in files:
        try:
            if path.suffix == ".safetensors":
                weights.update(load_file(path))
            else:
                weights.update(torch.load(path, map_location="cpu", weights_only=True, mmap=True))
        except (OSError, RuntimeError, ValueError, UnpicklingError, SafetensorError) as error:
            reason = one_line(error)[:200]
            raise UserError(f"{path} holds no weights that can be read, or more than weights: {reason}") from error
    return weights
