"""What is computed in passes is what is computed at once."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from refusal_lightning.directions.analysis import bootstrap, stability_in_passes
from refusal_lightning.directions.analysis.bootstrap import bootstrap_counts, bootstrap_weights
from refusal_lightning.directions.analysis.stability import (
    bootstrap_cosines,
    cosines_by_n_train,
    split_cosines_by_n_train,
)
from refusal_lightning.directions.analysis.stability_in_passes import StabilityInPasses
from refusal_lightning.directions.estimators.lda import lda, lda_in_passes
from refusal_lightning.directions.estimators.registry import ESTIMATORS


class Blocks:
    """Rows of an array, some at a time, in another order."""

    def __init__(self, activations: np.ndarray) -> None:
        self._activations = activations

    def __len__(self) -> int:
        return len(self._activations)

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        order = np.random.default_rng(5).permutation(len(self))
        for start in range(0, len(order), 7):
            places = order[start : start + 7]
            yield places, self._activations[places].astype(np.float64)


def classes(n: int = 60, m: int = 45, d_model: int = 12) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(2)
    common, width = 300 * rng.normal(size=d_model), np.linspace(1, 4, d_model)
    harmful = common + width * rng.normal(size=(n, d_model)) + rng.normal(size=d_model)
    return harmful.astype(np.float32), (common + width * rng.normal(size=(m, d_model))).astype(np.float32)


@pytest.mark.parametrize("name", [name for name, spec in ESTIMATORS.items() if spec.in_passes is not None])
@pytest.mark.parametrize("d_model", [12, 130])
def test_estimators_give_the_same_direction(name: str, d_model: int) -> None:
    of_rows, in_passes = ESTIMATORS[name].of_rows, ESTIMATORS[name].in_passes
    assert of_rows is not None and in_passes is not None
    harmful, harmless = classes(d_model=d_model)
    (expected,) = of_rows(harmful[:, None], harmless[:, None])
    found = in_passes(Blocks(harmful), Blocks(harmless))
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7 * float(np.linalg.norm(expected)))
    harmful[3, 1] = np.nan
    assert np.isnan(in_passes(Blocks(harmful), Blocks(harmless))).any()
    same = np.repeat(harmless[:1], 20, axis=0)
    assert not in_passes(Blocks(same), Blocks(same[:9])).any()


def test_lda_with_a_shrinkage_of_ones_own() -> None:
    harmful, harmless = classes()
    found = lda_in_passes(Blocks(harmful), Blocks(harmless), shrinkage=0.4)
    np.testing.assert_allclose(found, lda(harmful[:, None], harmless[:, None], shrinkage=0.4)[0], rtol=1e-8)
    with pytest.raises(ValueError, match="shrinkage"):
        lda_in_passes(Blocks(harmful), Blocks(harmless), shrinkage=2)


def test_stability_has_the_same_draws_and_cosines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stability_in_passes, "DRAWN_BYTES", 60 * 8)  # some passes for each measure
    monkeypatch.setattr(bootstrap, "AT_ONCE", 60 * 3)
    monkeypatch.setattr(stability_in_passes, "AT_ONCE", 60 * 3)
    harmful, harmless = classes()
    at_once, passes = np.random.default_rng(1), np.random.default_rng(1)
    found = StabilityInPasses(Blocks(harmful), Blocks(harmless))
    arrays = harmful[:, None], harmless[:, None]
    expected = bootstrap_cosines(*arrays, at_once, 20)[:, 0]
    np.testing.assert_allclose(found.bootstrap_cosines(passes, 20), expected, atol=1e-9)
    expected = cosines_by_n_train(*arrays, [1, 8, 45], at_once, 20)[:, :, 0]
    np.testing.assert_allclose([found.cosines_by_n_train(s, passes, 20) for s in (1, 8, 45)], expected, atol=1e-9)
    expected = split_cosines_by_n_train(*arrays, [2, 22], at_once, 20)[:, :, 0]
    np.testing.assert_allclose([found.split_cosines_by_n_train(s, passes, 20) for s in (2, 22)], expected, atol=1e-9)
    assert at_once.random() == passes.random()


def test_no_signal_at_all_is_nan() -> None:
    same = Blocks(np.full((3, 4), 0.7))
    assert np.isnan(StabilityInPasses(same, same).bootstrap_cosines(np.random.default_rng(0), 5)).all()


def test_counts_are_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "AT_ONCE", 33 * 4)
    first, second = np.random.default_rng(0), np.random.default_rng(0)
    counts = bootstrap_counts(33, 10, first)
    assert counts.dtype == np.uint8
    np.testing.assert_array_equal(counts, bootstrap_weights(33, 10, second))
    assert first.random() == second.random()
