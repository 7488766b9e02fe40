"""Token ids in and out: prompts to ids, left-padded batches, single tokens by text."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from typing import Any, overload

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from refusal_lightning.errors import UserError
from refusal_lightning.io.hashing import sha256_of


class TokenIds(Sequence[list[int]]):
    """Token ids of many prompts in one buffer, 4 bytes a token; each prompt's are a new list when asked for."""

    def __init__(self, prompts: Iterable[Sequence[int]] = ()) -> None:
        self._ids, self._ends = array("i"), array("q", [0])
        for prompt in prompts:
            self.append(prompt)

    def append(self, prompt: Sequence[int]) -> None:
        """Add a prompt behind the others."""
        self._ids.extend(prompt)
        self._ends.append(len(self._ids))

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> list[int]: ...

    @overload
    def __getitem__(self, index: slice) -> list[list[int]]: ...

    def __getitem__(self, index: int | slice) -> list[int] | list[list[int]]:
        place = range(len(self))[index]
        if isinstance(place, range):
            return [self[i] for i in place]
        return self._ids[self._ends[place] : self._ends[place + 1]].tolist()


def left_pad(
    prompts: Sequence[Sequence[int]], pad_id: int = 0
) -> tuple[Int[Tensor, "prompt token"], Int[Tensor, "prompt token"]]:
    """Token ids and attention mask of prompts of several lengths, padded on the left.

    The mask must go with the ids wherever they go: without it padding changes every result.
    """
    longest = max(len(p) for p in prompts)
    ids = torch.full((len(prompts), longest), pad_id, dtype=torch.long)
    mask = torch.zeros((len(prompts), longest), dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.as_tensor(prompt, dtype=torch.long)
        mask[row, longest - len(prompt) :] = 1
    return ids, mask


def token_positions(mask: Int[Tensor, "row column"]) -> Int[Tensor, "row column"]:
    """Positions that count a row's own tokens. A model that is not told them counts columns, padding included."""
    return (mask.cumsum(-1) - 1).clamp(min=0)


def length_batches(lengths: Sequence[int], batch_size: int, max_padding: float = 0.1) -> list[list[int]]:
    """Divide items into batches of similar length.

    Items are taken in order of length (ties by index); a batch ends at ``batch_size`` items, or where one more
    would make padding exceed the share ``max_padding`` of the batch's tokens. Depends on nothing but its arguments.
    """
    batches: list[list[int]] = []
    tokens = 0
    for index in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        length = lengths[index]
        batch = batches[-1] if batches else []
        padded = (len(batch) + 1) * length
        if not batch or len(batch) == batch_size or padded - (tokens + length) > max_padding * padded:
            batches.append([])
            tokens = 0
        batches[-1].append(index)
        tokens += length
    return batches


def prompt_hash(token_ids: Sequence[int]) -> str:
    """SHA-256 of the token ids (little-endian int64), in hex: a prompt's name in the store."""
    return sha256_of(np.asarray(token_ids, dtype="<i8").tobytes())


def single_token_ids(tokens: Sequence[int | str], tokenizer: Any, key: str) -> list[int]:
    """Ids of tokens given as ids or as texts of one token each. Raises UserError naming the culprit."""
    ids: list[int] = []
    for token in tokens:
        if isinstance(token, int):
            if not 0 <= token < len(tokenizer):
                raise UserError(f"{key}: token id {token} is not in the vocabulary (0 to {len(tokenizer) - 1})")
            ids.append(token)
            continue
        encoded = tokenizer(token, add_special_tokens=False)["input_ids"]
        if len(encoded) != 1:
            raise UserError(f"{key}: {token!r} is {len(encoded)} tokens in this model's vocabulary; give single tokens")
        ids.append(encoded[0])
    return ids
