"""Made-up stores whose every value follows from the prompt's hash, so that any process knows what belongs where."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from refusal_lightning.store import ActivationStore, Encoding, Layout, PromptRecord, Shard
from refusal_lightning.store.backend.local import LocalBackend
from refusal_lightning.store.format import format1, row_files
from refusal_lightning.store.format.layout import LOGITS
from refusal_lightning.store.format.log import Logged
from refusal_lightning.store.format.manifest import read_manifest
from refusal_lightning.store.format.rows import RowTable

IDENTITY = {"model": "made-up", "revision": "1", "template": {"name": "none", "tokens": [1, 2]}}
LAYOUT = Layout(("resid_pre", "attn_out"), (0, 1, 2), (-2, -1), d_model=8, vocab_size=11)
RAGGED = Layout(("resid_pre",), (0, 2), "all", d_model=4, vocab_size=5)


def record(number: int, **fields: Any) -> PromptRecord:
    """Prompt ``number``, of 1 to 7 tokens."""
    hash_ = hashlib.sha256(b"%d" % number).hexdigest()
    fields = {"label": ("harmful", "harmless")[number % 2], "split": "train", "dataset": "made-up"} | fields
    return PromptRecord(hash=hash_, n_tokens=1 + number % 7, **fields)


def records(numbers: Iterable[int]) -> list[PromptRecord]:
    """The prompts of these numbers."""
    return [record(number) for number in numbers]


def hashes(numbers: Iterable[int]) -> list[str]:
    """Their hashes."""
    return [r.hash for r in records(numbers)]


def values(layout: Layout, name: str, prompt: str, n_tokens: int) -> np.ndarray:
    """What belongs to a prompt in an array, float32: [layer, position, d_model], [token, layer, d_model] or [vocab]."""
    seed = int.from_bytes(hashlib.sha256(f"{name} {prompt}".encode()).digest()[:8], "little")
    shape: tuple[int, ...]
    if name == LOGITS:
        assert layout.vocab_size is not None
        shape = (layout.vocab_size,)
    elif isinstance(layout.positions, str):
        shape = (n_tokens, len(layout.layers), layout.d_model)
    else:
        shape = (len(layout.layers), len(layout.positions), layout.d_model)
    drawn = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32) * 100
    return drawn if name == LOGITS else rounded(drawn, layout.dtype)


def rounded(drawn: np.ndarray, dtype: str) -> np.ndarray:
    """Float32 values that a type holds exactly."""
    if dtype == "float16":
        return drawn.astype(np.float16).astype(np.float32)
    if dtype == "bfloat16":
        return (drawn.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    return drawn


def shard_arrays(layout: Layout, shard: Shard) -> dict[str, np.ndarray]:
    """What ``write_shard`` takes for a shard."""
    join = {name: np.concatenate if layout.ragged and name != LOGITS else np.stack for name in layout.array_names}
    prompts = list(zip(shard.hashes, shard.n_tokens, strict=True))
    return {name: join[name]([values(layout, name, h, n) for h, n in prompts]) for name in layout.array_names}


def make(
    url: str | Path,
    layout: Layout = LAYOUT,
    compression: str = "zstd",
    shard_bytes: int | None = 5000,
    **options: Any,
) -> ActivationStore:
    """Create or open a made-up store of small shards."""
    encoding = Encoding(compression, shard_bytes)  # type: ignore[arg-type]
    return ActivationStore.create_or_open(url, IDENTITY, layout, encoding, position_tokens=["<e>", "\n"], **options)


def fill(store: ActivationStore) -> None:
    """Write every pending shard."""
    for shard in store.pending():
        store.write_shard(shard.index, shard_arrays(store.layout, shard))


def filled(url: str | Path, numbers: Iterable[int] = range(40), **options: Any) -> ActivationStore:
    """A store that holds the prompts of these numbers."""
    store = make(url, **options)
    store.add_prompts(records(numbers))
    fill(store)
    return store


def plan_in_format_1(url: Path, numbers: Iterable[int]) -> None:
    """Plan further prompts in a store of format 1 as an older version of the package does, which knows no log."""
    backend = LocalBackend(url)
    manifest = read_manifest(backend)
    assert manifest is not None and manifest.format == 1
    known = format1.logged(backend, manifest).table
    rows, fresh, shards = known.new_rows(records(numbers))
    manifest = replace(manifest, segments=(*manifest.segments, manifest.next_segment(shards, fresh, {})))
    row_files.write(backend, Logged(manifest, RowTable(manifest.geometry, [*known.records, *rows])))


def expected(layout: Layout, name: str, numbers: Sequence[int]) -> np.ndarray:
    """What ``read`` must give for these prompts."""
    join = np.concatenate if layout.ragged and name != LOGITS else np.stack
    return join([values(layout, name, r.hash, r.n_tokens) for r in records(numbers)])


def check(store: ActivationStore, numbers: Sequence[int]) -> None:
    """Assert that the store holds these prompts, every value."""
    rows = store.rows(hashes(numbers))
    for name in store.layout.array_names:
        np.testing.assert_array_equal(store.read(name, rows), expected(store.layout, name, numbers), err_msg=name)


def data_files(store: ActivationStore, name: str = "resid_pre") -> list[Path]:
    """The shard files of an array of a local store, by number."""
    return sorted(Path(store.url, name).glob("c.*"), key=lambda path: int(path.name.split(".")[1]))
