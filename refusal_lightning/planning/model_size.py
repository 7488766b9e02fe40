"""How large a model is, from its configuration: built without memory for its weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ModelSize:
    """Counts of parameters."""

    total: int
    embedding: int
    """Of the token embedding, which costs memory and no arithmetic."""
    head: int
    """Of the LM head, which is applied where logits are wanted only; part of the embedding where they are tied."""
    tied: bool
    per_token: int
    """Multiplied with every token's activations: neither embedding nor head, and of experts the share that a token
    goes through."""


def model_size(config: Any, trust_remote_code: bool = False) -> ModelSize:
    """Count the parameters of the model that a Hugging Face configuration describes."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    share = expert_share(config)
    counted = {id(embedding), id(head)}
    per_token = 0.0
    for name, parameter in model.named_parameters():
        if id(parameter) not in counted:
            per_token += parameter.numel() * (share if ".experts." in name else 1.0)
    return ModelSize(
        total=sum(parameter.numel() for parameter in model.parameters()),
        embedding=embedding.numel(),
        head=head.numel(),
        tied=embedding is head,
        per_token=round(per_token),
    )


def expert_share(config: Any) -> float:
    """Of a mixture of experts, the share that each token goes through; 1 for other models."""
    text = config.get_text_config()
    names = ("num_local_experts", "num_experts", "n_routed_experts")
    experts = next((count for name in names if (count := getattr(text, name, None))), None)
    return text.num_experts_per_tok / experts if experts else 1.0
