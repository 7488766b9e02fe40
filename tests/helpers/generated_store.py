"""A store that holds nothing: its logits and activations follow from the row, so that it can be of any size.

``python generated_store.py VOCABULARY D_MODEL FEW MANY`` does with few and with many training prompts of each kind what
`select` and `analyze` do with the store, and prints by how many MB the peak of the second is above that of the first.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from refusal_lightning.store import Layout


class GeneratedStore:
    """Prompts named ``harmful 3`` and ``harmless 3``; the harmful ones are refused with token 7, all but each tenth."""

    url = "generated"

    def __init__(self, hashes: Sequence[str], layers: int, positions: int, d_model: int, vocabulary: int) -> None:
        self.layout = Layout(("resid_pre",), tuple(range(layers)), tuple(range(-positions, 0)), d_model, vocabulary)
        self.vocabulary = vocabulary
        self._row = {name: row for row, name in enumerate(hashes)}
        self.is_harmful = np.array([name.startswith("harmful") for name in hashes])
        self._noise = np.random.default_rng(0).standard_normal(
            max(vocabulary, layers * positions * d_model) + len(hashes), dtype=np.float32
        )
        self.largest = 0
        """Bytes of the largest piece that was read."""

    def rows(self, hashes: Sequence[str]) -> np.ndarray:
        return np.array([self._row[name] for name in hashes])

    def activations(self, rows: np.ndarray) -> np.ndarray:
        """[prompt, layer, position, d_model]: the harmful ones are apart in one dimension."""
        shape = len(self.layout.layers), len(self.layout.positions), self.layout.d_model
        made = sliding_window_view(self._noise, int(np.prod(shape)))[rows].reshape(len(rows), *shape)
        made[..., 3] += 2 * self.is_harmful[rows, None, None]
        return made

    def mean(self, name: str, hashes: Sequence[str], positions: Any = None) -> np.ndarray:
        rows = self.rows(hashes)
        parts = (self.read(name, part, None, np.float64, positions) for part in self.by_shard(rows))
        return np.asarray(sum(part.sum(axis=0) for part in parts) / len(rows))

    def by_shard(self, rows: np.ndarray) -> list[np.ndarray]:
        return [rows[start : start + 500] for start in range(0, len(rows), 500)]

    def lacking(self, hashes: Sequence[str]) -> list[str]:
        return []

    def complete_rows(self) -> np.ndarray:
        return np.arange(len(self._row))

    def read(
        self, name: str, rows: np.ndarray, layers: Any = None, dtype: Any = np.float32, positions: Any = None
    ) -> Any:
        if name == "resid_pre":
            places = [slice(None) if x is None else list(x) for x in (layers, positions)]
            return self.activations(rows)[:, places[0]][:, :, places[1]].astype(dtype)
        assert name == "next_token_logits"
        out = np.empty((len(rows), self.vocabulary), dtype)
        for place, row in enumerate(rows):
            out[place] = self._noise[row : row + self.vocabulary]
            out[place, 7] = 25.0 if self.is_harmful[row] and row % 10 else -25.0
        self.largest = max(self.largest, out.nbytes)
        return out


def names(count: int) -> dict[str, list[str]]:
    """The four sets, so many training prompts each and a tenth for validation."""
    sizes = {"train": count, "val": count // 10}
    return {f"{k}_{s}": [f"{k} {s} {i}" for i in range(n)] for k in ("harmful", "harmless") for s, n in sizes.items()}


def prepare(vocabulary: int, d_model: int, count: int) -> tuple[Any, dict[str, Any]]:
    """The store and the prompts kept, by what comes before the first pass of `select`: refusal tokens, the filter,
    bounds of the KL score."""
    from refusal_lightning.config import SelectConfig
    from refusal_lightning.inputs.prompt_filter import filter_prompts
    from refusal_lightning.inputs.prompts import PromptSet
    from refusal_lightning.inputs.refusal_tokens import find_refusal_tokens
    from refusal_lightning.inputs.stored_logits import StoredLogits
    from refusal_lightning.stages.select.scoring import score_bounds

    sets = {name: PromptSet(name, hashes, [[1]] * len(hashes), hashes) for name, hashes in names(count).items()}
    store: Any = GeneratedStore([h for s in sets.values() for h in s.hashes], 2, 2, d_model, vocabulary)
    chat: Any = SimpleNamespace(refusal_ids=[], alias="made-up", tokenizer=SimpleNamespace(decode=str))
    chat.refusal_ids = find_refusal_tokens(chat, store, sets["harmful_train"], sets["harmless_train"]).ids
    assert chat.refusal_ids == [7]
    kept = filter_prompts(store, chat, sets, SelectConfig())
    expected = [h for h in sets["harmful_train"].hashes if store.rows([h])[0] % 10]
    assert kept["harmful_train"].prompts.hashes == expected and len(kept["harmless_train"].prompts) == count
    logits = StoredLogits(store, sets["harmless_val"].hashes)
    assert len(score_bounds(1, logits)["kl"][0]) == count // 10
    np.testing.assert_array_equal(logits[[2, 0]], store.read("next_token_logits", logits._rows[[2, 0]]))
    return store, kept


def estimate(store: Any, kept: dict[str, Any]) -> None:
    """Directions of every estimator, how sure a choice among them is, and every analysis."""
    from refusal_lightning.config import DataConfig
    from refusal_lightning.directions.estimators.registry import ESTIMATORS
    from refusal_lightning.directions.selection.filters import Thresholds
    from refusal_lightning.directions.selection.uncertainty import PromptScores, uncertainty
    from refusal_lightning.inputs.candidates import estimated_directions
    from refusal_lightning.stages.analyze.inputs import AnalysisInputs
    from refusal_lightning.stages.analyze.registry import ANALYSES
    from refusal_lightning.stages.analyze.stage import analyze_directions

    for name in ESTIMATORS.keys() - {"category_means"}:  # which asks a data set for categories
        directions = estimated_directions(name, store, kept, 2, DataConfig())
        assert directions.shape == (2, 2, store.layout.d_model) and (np.argmax(directions, axis=-1) == 3).all()
    rng = np.random.default_rng(0)
    n, m = (len(kept[name].prompts) for name in ("harmful_val", "harmless_val"))
    scores = PromptScores(*(rng.random((2, 2, size), dtype=np.float32) for size in (n, m, m)))
    uncertainty(scores, Thresholds(kl=1.0, prune_layers=None), np.ones((2, 2)), rng)
    material = AnalysisInputs(
        store=store,
        rows={name: store.rows(filtered.prompts.hashes) for name, filtered in kept.items()},
        datasets={(name, *name.split("_")): filtered.prompts.hashes for name, filtered in kept.items()},  # type: ignore[misc]
        estimator=name,
        directions=directions,
        selected=(-1, 1),
        position_tokens=["a", "b"],
        n_resamples=50,
        confidence=0.95,
        seed=0,
    )
    assert all(found.rows for found in analyze_directions(material, list(ANALYSES)).analyses.values())


def peak() -> float:
    """MB, of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


if __name__ == "__main__":
    vocabulary, d_model, few, many = map(int, sys.argv[1:])
    estimate(*prepare(vocabulary, d_model, few))
    before = peak()
    estimate(*prepare(vocabulary, d_model, many))
    print(peak() - before, peak())
