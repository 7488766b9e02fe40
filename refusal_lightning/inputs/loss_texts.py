"""The texts whose loss `evaluate` measures, as token ids and the first one that counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from refusal_lightning.config import DataConfig, EvaluateConfig, LossMask, SetConfig
from refusal_lightning.data.loss_sets import load_texts, of_the_baseline
from refusal_lightning.data.texts import Text
from refusal_lightning.errors import UserError
from refusal_lightning.inputs.instructions import plain_name
from refusal_lightning.models import ChatModel
from refusal_lightning.models.fingerprint import cache_folder
from refusal_lightning.models.tokens import length_batches


class ScoredText(NamedTuple):
    """Token ids of a text, and the index of the first one whose prediction counts."""

    ids: list[int]
    first: int


def read_loss_sets(chat: ChatModel, data: DataConfig, config: EvaluateConfig) -> dict[str, list[ScoredText]]:
    """The configured sets by their keys in the results, but for the baseline's own completions. Raises UserError."""
    return {
        key: [scored_text(chat, text, config.loss_max_tokens, config.loss_mask) for text in texts]
        for key, texts in loss_texts(data, config).items()
    }


def loss_texts(data: DataConfig, config: EvaluateConfig) -> dict[str, list[Text]]:
    """The texts of these sets, without a model. Raises UserError."""
    sets: dict[str, list[Text]] = {}
    for name in config.losses:
        key = plain_name(name)
        if key in sets:
            raise UserError(f"evaluate.losses: two sets would both be called {key}; give one another name in data.sets")
        if of_the_baseline(name):
            continue
        own = text_source(name, data)
        if own.where:
            raise UserError(f"data.sets.{name}.where: sets of evaluate.losses are taken whole; leave it out")
        count = config.loss_batch_size * config.loss_n_batches
        kept = cache_folder() / "texts"
        sets[key] = load_texts(own.source, count, data.root, columns=own.columns, kept=kept)
    return sets


def text_source(name: str, data: DataConfig) -> SetConfig:
    """Where texts of this name come from."""
    given = data.sets.get(name, name)
    return given if isinstance(given, SetConfig) else SetConfig(given)


def loss_batches(spans: Sequence[tuple[int, int]], batch_size: int) -> list[list[int]]:
    """Which texts run together, each given by its length and the first token whose prediction counts.

    A text of which no token counts is in none.
    """
    order = [i for i, (length, first) in enumerate(spans) if first < length]
    return [[order[i] for i in batch] for batch in length_batches([spans[i][0] for i in order], batch_size)]


def own_completions(chat: ChatModel, answers: Sequence[tuple[str, str]], mask: LossMask = "answer") -> list[ScoredText]:
    """The model's (instruction, answer) pairs."""
    return [scored_text(chat, Text(answer, instruction), mask=mask) for instruction, answer in answers]


def scored_text(chat: ChatModel, text: Text, max_tokens: int | None = None, mask: LossMask = "answer") -> ScoredText:
    """A text as it is scored: all tokens that are predicted, or the answer's (the authors' appendix on CE loss).

    A plain text is cut at ``max_tokens`` and tokenised as the tokenizer does by itself, beginning of sequence included.
    An answer is tokenised in one with its prompt. Where its start merges with the template's last token, as each
    Llama-2 answer's does that begins with a letter, the merged token is the first to count under the mask ``answer``,
    since it holds some of it; under ``paper`` the one behind it, where the authors' mask begins. With other tokenizers
    of the paper both are the same. Nothing goes beyond the model's context.
    """
    if text.instruction is None:
        longest = min((n for n in (max_tokens, chat.context) if n is not None), default=None)
        return ScoredText(list(chat.tokenizer(text.text)["input_ids"])[:longest], 1)
    prompt = chat.template.encode(chat.tokenizer, text.instruction)
    ids = chat.template.encode(chat.tokenizer, text.instruction, text.text)
    first = next((i for i, (a, b) in enumerate(zip(prompt, ids, strict=False)) if a != b), min(len(prompt), len(ids)))
    merged = first < len(prompt)
    return ScoredText(ids[: chat.context], first + (merged and mask == "paper"))
