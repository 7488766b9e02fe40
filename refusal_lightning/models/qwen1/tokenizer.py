"""The tokenizer of the first generation of Qwen, from its `qwen.tiktoken` file and without the repository's code.

The file has a line per token: its bytes in base64, and its rank, which is its id. Encoding a piece of text merges, as
long as there is one, the leftmost of the neighbouring pairs whose bytes together have the lowest rank.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from refusal_lightning.errors import UserError

VOCABULARY_FILE = "qwen.tiktoken"
END, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIAL_TOKENS = (END, TURN_START, TURN_END, *(f"<|extra_{i}|>" for i in range(205)))
"""Their ids follow the vocabulary's: 151643 and up."""

_PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def qwen1_tokenizer(path: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a vocabulary file. Raises UserError where the file is none."""
    return fast_tokenizer(read_ranks(path))


def read_ranks(path: Path) -> dict[bytes, int]:
    """Rank of each token, by its bytes."""
    ranks: dict[bytes, int] = {}
    try:
        for line in path.read_bytes().splitlines():
            if line:
                token, rank = line.split()
                ranks[base64.b64decode(token, validate=True)] = int(rank)
    except (ValueError, binascii.Error):
        raise UserError(f"{path} is no vocabulary: a line of it is not a token in base64 and its rank") from None
    whole = sorted(ranks.values()) == list(range(len(ranks))) and all(bytes([b]) in ranks for b in range(256))
    if not whole:
        raise UserError(f"{path} is no whole vocabulary: ranks or single bytes are missing; download it again")
    return ranks


def fast_tokenizer(ranks: Mapping[bytes, int]) -> PreTrainedTokenizerFast:
    """A `tokenizers` tokenizer that gives the ids of merging by rank."""
    letters = _byte_letters()

    def spelled(token: bytes) -> str:
        return "".join(letters[byte] for byte in token)

    by_rank = sorted(ranks, key=ranks.__getitem__)
    vocabulary = {spelled(token): ranks[token] for token in by_rank}
    pairs = (last_merge(token, ranks) for token in by_rank if len(token) > 1)
    merges = [(spelled(pair[0]), spelled(pair[1])) for pair in pairs if pair is not None]
    # A piece that is a token is taken whole, whether or not merging leads to it.
    tokenizer = Tokenizer(BPE(vocabulary, merges, ignore_merges=True))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL_TOKENS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, pad_token=END, clean_up_tokenization_spaces=False
    )


def last_merge(token: bytes, ranks: Mapping[bytes, int]) -> tuple[bytes, bytes] | None:
    """The two tokens that merging by rank joins into this one; None where it never does.

    There is one such pair at most: wherever the token comes about, the merges within its bytes are those of its bytes
    alone. One merge per token therefore says all that the ranks say.
    """
    rank = ranks[token]
    splits = [(token[:i], token[i:]) for i in range(1, len(token))]
    splits = [(a, b) for a, b in splits if ranks.get(a, rank) < rank and ranks.get(b, rank) < rank]
    if len(splits) < 2:
        return splits[0] if splits else None
    parts = [bytes([byte]) for byte in token]
    while len(parts) > 2:
        joined = [ranks.get(a + b, rank) for a, b in pairwise(parts)]
        lowest = min(joined)
        if lowest == rank:
            return None
        at = joined.index(lowest)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts[0], parts[1]


def _byte_letters() -> dict[int, str]:
    """The printable letter that stands for each byte in a byte-level vocabulary."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return {byte: chr(byte) for byte in plain} | {byte: chr(0x100 + i) for i, byte in enumerate(others)}
