"""A store that holds nothing: its logits and activations follow from the row, so that it can be of any size.

``python generated_store.py VOCABULARY FEW MANY`` filters and measures with few and with many prompts, as `select` does
before its first pass, and prints by how many MB the peak of the second is above that of the first.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from refusal_lightning.store import Layout


class GeneratedStore:
    """Prompts named ``harmful 3`` and ``harmless 3``; the harmful ones are refused with token 7, all but each tenth."""

    url = "generated"

    def __init__(self, hashes: Sequence[str], layers: int, positions: int, d_model: int, vocabulary: int) -> None:
        self.layout = Layout(("resid_pre",), tuple(range(layers)), tuple(range(-positions, 0)), d_model, vocabulary)
        self.vocabulary = vocabulary
        self._row = {name: row for row, name in enumerate(hashes)}
        self.is_harmful = np.array([name.startswith("harmful") for name in hashes])
        self._noise = np.random.default_rng(0).standard_normal(vocabulary + len(hashes), dtype=np.float32)
        self.largest = 0
        """Bytes of the largest piece that was read."""

    def rows(self, hashes: Sequence[str]) -> np.ndarray:
        return np.array([self._row[name] for name in hashes])

    def logits(self, row: int) -> np.ndarray:
        """What belongs to a prompt."""
        made = self._noise[row : row + self.vocabulary].copy()
        made[7] = 25.0 if self.is_harmful[row] and row % 10 else -25.0
        return made

    def read(
        self, name: str, rows: np.ndarray, layers: Any = None, dtype: Any = np.float32, positions: Any = None
    ) -> Any:
        assert name == "next_token_logits"
        out = np.empty((len(rows), self.vocabulary), dtype)
        for place, row in enumerate(rows):
            out[place] = self.logits(row)
        self.largest = max(self.largest, out.nbytes)
        return out


def names(count: int) -> dict[str, list[str]]:
    """The four sets, so many training prompts each and a tenth for validation."""
    sizes = {"train": count, "val": count // 10}
    return {f"{k}_{s}": [f"{k} {s} {i}" for i in range(n)] for k in ("harmful", "harmless") for s, n in sizes.items()}


def prepare(vocabulary: int, count: int) -> None:
    """What comes before the first pass of `select`: refusal tokens, the filter, bounds of the KL score."""
    from refusal_lightning.config import SelectConfig
    from refusal_lightning.stages.prompts import PromptSet
    from refusal_lightning.stages.refusal_tokens import settle_refusal_tokens
    from refusal_lightning.stages.select import filter_prompts

    sets = {name: PromptSet(name, hashes, [[1]] * len(hashes), hashes) for name, hashes in names(count).items()}
    store: Any = GeneratedStore([h for s in sets.values() for h in s.hashes], 1, 1, 2, vocabulary)
    chat: Any = SimpleNamespace(refusal_ids=[], alias="made-up", tokenizer=SimpleNamespace(decode=str))
    settle_refusal_tokens(chat, store, sets["harmful_train"], sets["harmless_train"])
    assert chat.refusal_ids == [7]
    kept = filter_prompts(store, chat, sets, SelectConfig())
    expected = [h for h in sets["harmful_train"].hashes if store.rows([h])[0] % 10]
    assert kept["harmful_train"].prompts.hashes == expected and len(kept["harmless_train"].prompts) == count
    try:
        from refusal_lightning.stages.scoring import score_bounds
        from refusal_lightning.stages.stored_logits import StoredLogits
    except ImportError:
        return
    logits = StoredLogits(store, sets["harmless_val"].hashes)
    assert len(score_bounds(1, logits)["kl"][0]) == count // 10
    np.testing.assert_array_equal(logits[[2, 0]], store.read("next_token_logits", logits._rows[[2, 0]]))


def peak() -> float:
    """MB, of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


if __name__ == "__main__":
    vocabulary, few, many = map(int, sys.argv[1:])
    prepare(vocabulary, few)
    before = peak()
    prepare(vocabulary, many)
    print(peak() - before, peak())
