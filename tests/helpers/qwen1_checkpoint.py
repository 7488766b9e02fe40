"""A tiny checkpoint of the first generation of Qwen, as the Hub has them."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tiny_models import tiny_tokenizer
from torch import Tensor

CONFIG: dict[str, Any] = {
    "architectures": ["QWenLMHeadModel"],
    "auto_map": {
        "AutoConfig": "configuration_qwen.QWenConfig",
        "AutoModelForCausalLM": "modeling_qwen.QWenLMHeadModel",
    },
    "model_type": "qwen",
    "vocab_size": 640,
    "hidden_size": 32,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "kv_channels": 8,
    "layer_norm_epsilon": 1e-6,
    "seq_length": 64,
    "rotary_emb_base": 10000,
    "rotary_pct": 1.0,
    "no_bias": True,
    "scale_attn_weights": True,
    "use_dynamic_ntk": True,
    "use_logn_attn": True,
    "tie_word_embeddings": False,
    "tokenizer_class": "QWenTokenizer",
}


def random_weights(config: dict[str, Any]) -> dict[str, Tensor]:
    """A checkpoint under the original's names, float32, every weight and bias random."""
    generator = torch.Generator().manual_seed(0)
    width, half = config["hidden_size"], config["intermediate_size"] // 2

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator) * 1.5 / shape[-1] ** 0.5

    weights = {
        "transformer.wte.weight": torch.randn(config["vocab_size"], width, generator=generator),
        "transformer.ln_f.weight": 1 + 0.2 * torch.randn(width, generator=generator),
        "transformer.rotary_emb.inv_freq": torch.zeros(4),  # a buffer that is of no use
        "lm_head.weight": random(config["vocab_size"], width),
    }
    for layer in range(config["num_hidden_layers"]):
        block = {
            "ln_1.weight": 1 + 0.2 * torch.randn(width, generator=generator),
            "attn.c_attn.weight": random(3 * width, width),
            "attn.c_attn.bias": random(3 * width),
            "attn.c_proj.weight": random(width, width),
            "ln_2.weight": 1 + 0.2 * torch.randn(width, generator=generator),
            "mlp.w1.weight": random(half, width),
            "mlp.w2.weight": random(half, width),
            "mlp.c_proj.weight": random(width, half),
        }
        weights.update({f"transformer.h.{layer}.{name}": weight for name, weight in block.items()})
    return weights


def small_ranks() -> dict[bytes, int]:
    """A small vocabulary as a `qwen.tiktoken` file has it: the bytes first, then tokens in the order they were made."""
    tokenizer = tiny_tokenizer()
    letters = dict(zip(_letters(), range(256), strict=True))
    tokens = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    return {bytes(letters[c] for c in token): i for i, (token, _) in enumerate(tokens[7:])}


def _letters() -> list[str]:
    """What a byte-level tokenizer writes for each byte, as the library itself says."""
    from tokenizers import pre_tokenizers

    alone = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    ascii_letters = {byte: alone.pre_tokenize_str(chr(byte))[0][0] for byte in range(128)}
    others: dict[int, str] = {}
    for code in range(0x80, 0x110000):  # each byte from 0x80 up, out of some letter's UTF-8
        if len(others) == 128 - 13:  # 0xc0, 0xc1 and 0xf5 to 0xff are in no text
            break
        if not 0xD800 <= code < 0xE000:
            encoded = chr(code).encode()
            if not others.keys() >= set(encoded):
                others.update(zip(encoded, alone.pre_tokenize_str(chr(code))[0][0], strict=True))
    never = [byte for byte in range(128, 256) if byte not in others]
    left = sorted(set(pre_tokenizers.ByteLevel.alphabet()) - set(ascii_letters.values()) - set(others.values()))
    return [({**ascii_letters, **others} | dict(zip(never, left, strict=True)))[byte] for byte in range(256)]


def write_qwen1(folder: Path, form: str = "safetensors", **changes: Any) -> Path:
    """A checkpoint's folder, as the Hub has them: two weight files, a tokenizer in its own format."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({**CONFIG, **changes}))
    (folder / "generation_config.json").write_text(json.dumps({"chat_format": "chatml", "eos_token_id": 393}))
    lines = [base64.b64encode(token) + f" {rank}\n".encode() for token, rank in small_ranks().items()]
    (folder / "qwen.tiktoken").write_bytes(b"".join(lines))
    weights = random_weights(CONFIG)
    for number in (0, 1):
        part = {name: weights[name] for name in sorted(weights)[number::2]}
        if form == "safetensors":
            save_file(part, folder / f"model-0000{number + 1}-of-00002.safetensors")
        else:
            torch.save(part, folder / f"pytorch_model-0000{number + 1}-of-00002.bin")
    return folder
