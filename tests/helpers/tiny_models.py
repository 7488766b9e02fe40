"""Tiny randomly initialised chat models of real architectures, made in a moment and without any download."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
VOCABULARY = 400
N_LAYERS = 4
D_MODEL = 32

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>\\n' + message['content'] + '<|end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)
"""Its end-of-instruction tokens are `<|end|>`, newline, `<|assistant|>`, newline: 4 positions."""
N_POSITIONS = 4

_SENTENCES = (
    "Tell me how to plan a walk in the forest with two children and a dog.",
    "Write a short letter of thanks to the people who helped you last week.",
    "I cannot help with that. I'm sorry, but I can't assist with this request.",
    "Sure, here is a list of ten things that you can do in the garden today.",
    "Explain what a vector is, and why the mean of many of them says something.",
    "What is the capital of France? The capital of France is Paris.",
)

# Where an architecture has it, the window is shorter than most prompts, so that windowed attention is really tested.
_ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": 12},
    "qwen2": {},
    "qwen3": {"head_dim": 8},
    "gemma": {"head_dim": 8},
    "gemma2": {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 12},
    "gemma3_text": {
        "head_dim": 8,
        "query_pre_attn_scalar": 8,
        "sliding_window": 12,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
    },
    "phi3": {},
    "gpt_neox": {"num_key_value_heads": None},
    "mixtral": {"num_local_experts": 4},
    "qwen3_moe": {"head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
}
ARCHITECTURES = tuple(_ARCHITECTURES)

# What shortcuts and hooks have to get right beside those: blocks that give tuples (Falcon, BLOOM, MPT, GPT-Neo),
# absolute positions (GPT-2, GPT-Neo), distances in columns (MPT, GPT-Neo's window), a third write (Falcon-H1).
_UNUSUAL: dict[str, dict[str, Any]] = {
    "falcon": {"num_key_value_heads": None},
    "bloom": {},
    "mpt": {"max_seq_len": 512, "expansion_ratio": 2},
    "gpt2": {"num_key_value_heads": None},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]], "window_size": 12},
    "falcon_h1": {
        "mamba_d_ssm": 32,
        "mamba_n_heads": 4,
        "mamba_d_head": 8,
        "mamba_d_state": 8,
        "mamba_n_groups": 1,
        "mamba_chunk_size": 8,
    },
}
UNUSUAL_ARCHITECTURES = tuple(_UNUSUAL)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE with a chat template; as many real ones, it adds `<s>` unless told not to."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_SENTENCES, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", SPECIAL_TOKENS.index("<s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        additional_special_tokens=[token for token in SPECIAL_TOKENS if token.startswith("<|")],
        padding_side="left",
        chat_template=CHAT_TEMPLATE,
        model_max_length=512,
    )


def tiny_sizes(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    """Sizes of a tiny model's configuration, by the names that most architectures have for them."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": D_MODEL,
        "intermediate_size": 64,
        "num_hidden_layers": N_LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
    }


def tiny_model(arch: str, seed: int = 0) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """A float32 model of an architecture listed above (4 layers, width 32, eager attention) and its tokenizer.

    Same seed, same weights. Norm weights and biases are random too, so that a hook on the wrong side of a norm or
    of a bias shows. As with many chat models, generation stops at two tokens: `</s>` and `<|end|>`.
    """
    tokenizer = tiny_tokenizer()
    common = {
        **tiny_sizes(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    settings = {
        key: value for key, value in {**common, **(_ARCHITECTURES | _UNUSUAL)[arch]}.items() if value is not None
    }
    config = AutoConfig.for_model(arch, **settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32)
        _randomise(model)
    model.config.architectures = [type(model).__name__]  # TransformerBridge looks at it
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|end|>")]
    model.requires_grad_(False)
    return model.eval(), tokenizer


def save_tiny_model(arch: str, folder: Path, seed: int = 0) -> Path:
    """Save model and tokenizer in Hugging Face's format. Returns the folder."""
    model, tokenizer = tiny_model(arch, seed)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _randomise(model: Any) -> None:
    """Weights that let every block matter: the usual 0.02 would leave the stream at its embedding."""
    # A tied embedding of size 1 would make every model repeat its last token.
    embedding_size = D_MODEL**-0.5 if model.config.tie_word_embeddings else 1.0
    with torch.no_grad():
        model.get_input_embeddings().weight.normal_(std=embedding_size)
        for name, weight in model.named_parameters():
            if weight is model.get_input_embeddings().weight:
                continue
            if weight.dim() >= 2:
                weight.normal_(std=1.5 / weight.shape[-1] ** 0.5)
            elif "norm" in name and name.endswith("weight"):
                weight.add_(torch.randn_like(weight) * 0.2)  # around the architecture's own start, 1 or (Gemma) 0
            else:
                weight.normal_(std=0.1)
