"""What a store holds per prompt, and how it is kept: the words that callers use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, get_args

from refusal_lightning.errors import UserError

HookPoint = Literal["resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out"]
Dtype = Literal["float32", "float16", "bfloat16"]
Compression = Literal["none", "zstd", "lz4"]

HOOK_POINTS: tuple[str, ...] = get_args(HookPoint)
LOGITS = "next_token_logits"


@dataclass(frozen=True)
class Layout:
    """What is stored per prompt. Part of a store's identity. Raises UserError for values that make no store."""

    hook_points: tuple[str, ...]
    """Where activations are read, a subset of HOOK_POINTS; each is an array of this name."""
    layers: tuple[int, ...]
    """Blocks, ascending."""
    positions: tuple[int, ...] | Literal["all"]
    """Token positions from the end of the prompt, negative, ascending; or all tokens of each prompt."""
    d_model: int
    """Width of the residual stream."""
    vocab_size: int | None = None
    """If set, the baseline logits at the last position are stored, as array `next_token_logits`, float32."""
    dtype: Dtype = "float32"
    """The activations' own type; all three are kept exactly."""

    def __post_init__(self) -> None:
        for name in ("hook_points", "layers", "positions"):
            value = getattr(self, name)
            object.__setattr__(self, name, value if isinstance(value, str) else tuple(value))
        unknown = [name for name in self.hook_points if name not in HOOK_POINTS]
        _require(not unknown, f"hook_points: unknown {unknown}; there are {', '.join(HOOK_POINTS)}")
        _require(bool(self.hook_points), "hook_points: at least one is needed")
        _require(len(set(self.hook_points)) == len(self.hook_points), f"hook_points repeat: {self.hook_points}")
        _require(_ascending(self.layers) and self.layers[0] >= 0, f"layers: not ascending from 0: {self.layers}")
        if isinstance(self.positions, str):
            _require(self.positions == "all", f"positions: negative numbers or 'all', not {self.positions!r}")
        else:
            fine = _ascending(self.positions) and self.positions[-1] < 0
            _require(fine, f"positions: not negative and ascending: {self.positions}")
        _require(self.d_model > 0, f"d_model must be above 0, not {self.d_model}")
        _require(self.vocab_size is None or self.vocab_size > 0, f"vocab_size must be above 0: {self.vocab_size}")
        _require(self.dtype in get_args(Dtype), f"dtype: one of {', '.join(get_args(Dtype))}, not {self.dtype!r}")

    @property
    def ragged(self) -> bool:
        """Whether all tokens of each prompt are stored, so that prompts differ in rows."""
        return self.positions == "all"

    @property
    def array_names(self) -> tuple[str, ...]:
        """The arrays of data: the hook points, and the logits where they are stored."""
        return self.hook_points + ((LOGITS,) if self.vocab_size is not None else ())

    def to_json(self) -> dict[str, Any]:
        """Plain lists and numbers, as the manifest holds them."""
        return {
            "hook_points": list(self.hook_points),
            "layers": list(self.layers),
            "positions": self.positions if isinstance(self.positions, str) else list(self.positions),
            "d_model": self.d_model,
            "vocab_size": self.vocab_size,
            "dtype": self.dtype,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Layout:
        """The inverse of ``to_json``."""
        return cls(**dict(value))


@dataclass(frozen=True)
class Encoding:
    """How the arrays are kept: chosen when a store is made, no part of its identity."""

    compression: Compression = "lz4"
    """lz4 (as small as zstd for float32, several times faster), zstd (smallest) or none; all are lossless."""
    shard_bytes: int | None = None
    """Uncompressed bytes of one shard over all arrays; None: 32 MB and more, so that there are few files."""

    def __post_init__(self) -> None:
        names = get_args(Compression)
        _require(self.compression in names, f"compression: one of {', '.join(names)}, not {self.compression!r}")
        _require(self.shard_bytes is None or self.shard_bytes > 0, f"shard_bytes: above 0, not {self.shard_bytes}")


@dataclass(frozen=True)
class PromptRecord:
    """A prompt as the store knows it: never its text."""

    hash: str
    """sha256 of the token ids, hexadecimal."""
    n_tokens: int
    """Tokens of the whole templated prompt."""
    label: str = ""
    """For example harmful or harmless."""
    split: str = ""
    """For example train, val or test."""
    dataset: str = ""
    """Where it came from."""

    def __post_init__(self) -> None:
        fine = len(self.hash) == 64 and set(self.hash) <= set("0123456789abcdef")
        _require(fine, f"a prompt's hash is 64 hexadecimal digits, not {self.hash!r}")
        _require(self.n_tokens > 0, f"a prompt has at least one token, not {self.n_tokens}")


@dataclass(frozen=True)
class Shard:
    """The unit that is written whole: consecutive rows of every array."""

    index: int
    """Number of the shard, from 0."""
    rows: range
    """Global rows (of the prompt axis) in the order of the arrays that ``write_shard`` takes."""
    hashes: tuple[str, ...]
    """The prompts of these rows."""
    n_tokens: tuple[int, ...]
    """Their tokens; with all positions stored, a prompt has this many rows of activations."""

    @property
    def n_rows(self) -> int:
        """Prompts in the shard."""
        return len(self.rows)


def _ascending(values: Iterable[int]) -> bool:
    listed = list(values)
    return bool(listed) and all(a < b for a, b in pairwise(listed))


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise UserError(f"activation store: {message}")
