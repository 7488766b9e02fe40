"""The refusal score: log-odds that the first answer token is a refusal token."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from refusal_lightning.errors import UserError


def refusal_scores(
    logits: Float[Tensor, "prompt vocab"], refusal_tokens: Sequence[int], epsilon: float = 1e-8
) -> Float[Tensor, " prompt"]:
    """log(p + epsilon) - log(1 - p + epsilon) per prompt, p being the refusal tokens' summed probability.

    ``logits`` are those of the last prompt position, in float32 or better; the softmax and the score are
    float64, on the logits' device. The score is in nats and lies within
    ``bounds.refusal_score_bound(epsilon)``: epsilon caps it at +-18.4. Paper appendix B (the refusal
    metric).

    Raises UserError if ``refusal_tokens`` is empty, repeats an id (it would be counted twice) or leaves the
    vocabulary.
    """
    tokens = [int(token) for token in refusal_tokens]
    vocab = logits.shape[-1]
    if not tokens:
        raise UserError("refusal_tokens: no token given; name at least one first token of a refusal")
    if len(set(tokens)) < len(tokens):
        raise UserError(f"refusal_tokens: {tokens} repeats an id; its probability would be counted twice")
    if min(tokens) < 0 or max(tokens) >= vocab:
        raise UserError(f"refusal_tokens: {tokens} are not all in the model's vocabulary (0 to {vocab - 1})")
    p = torch.softmax(logits.to(torch.float64), dim=-1)[:, tokens].sum(dim=-1)
    return torch.log(p + epsilon) - torch.log(1.0 - p + epsilon)
