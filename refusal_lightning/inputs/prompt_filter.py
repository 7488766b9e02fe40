"""The filter: harmful prompts that the model refuses and harmless ones that it does not."""

from __future__ import annotations

import numpy as np

from refusal_lightning.config import (
    SelectConfig,
)
from refusal_lightning.directions.metrics.refusal_score import refusal_scores
from refusal_lightning.errors import UserError
from refusal_lightning.inputs.prompts import Filtered, PromptSet
from refusal_lightning.inputs.stored_logits import StoredLogits
from refusal_lightning.models import ChatModel
from refusal_lightning.store import ActivationStore


def filter_prompts(
    store: ActivationStore, chat: ChatModel, sets: dict[str, PromptSet], config: SelectConfig
) -> dict[str, Filtered]:
    """Keep harmful prompts that the model refuses and harmless ones that it does not, by the stored baseline.

    Raises UserError when a set is left empty, with the scores' range.
    """
    kept: dict[str, Filtered] = {}
    for name, prompts in sets.items():
        logits = StoredLogits(store, prompts.hashes)
        scores = logits.each(lambda piece: refusal_scores(piece, chat.refusal_ids))
        harmful = name.startswith("harmful")
        threshold = config.harmful_threshold if harmful else config.harmless_threshold
        keep = np.isfinite(scores)
        if threshold is not None:
            keep = scores > threshold if harmful else scores < threshold
        index = np.flatnonzero(keep)
        if not len(index):
            side, rule = ("harmful", "above") if harmful else ("harmless", "below")
            raise UserError(
                f"all prompts filtered out: none of {len(prompts)} {prompts.name} prompts has a refusal score {rule} "
                f"select.{side}_threshold ({threshold}); their scores go from {np.nanmin(scores):.2f} to "
                f"{np.nanmax(scores):.2f}. Check model.refusal_tokens and the chat template, or move the threshold"
            )
        kept[name] = Filtered(prompts.take(index.tolist()), scores[index], len(prompts))
    return kept
