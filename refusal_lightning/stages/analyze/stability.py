"""How much a direction owes to the prompts drawn, and how many are enough."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Float

from refusal_lightning.directions.analysis.bootstrap import percentile_interval
from refusal_lightning.directions.analysis.stability import (
    ENOUGH,
    bootstrap_cosines,
    cosines_by_n_train,
    doubling_sizes,
    split_cosines_by_n_train,
)
from refusal_lightning.directions.analysis.stability_in_passes import StabilityInPasses
from refusal_lightning.directions.estimators.passes import FEW
from refusal_lightning.directions.estimators.registry import ESTIMATORS
from refusal_lightning.stages.analyze.analysis import Analysis, curves_of
from refusal_lightning.stages.analyze.inputs import AnalysisInputs


def analyse_stability(m: AnalysisInputs) -> Analysis:
    """How the mean difference moves when its training prompts are drawn again, or fewer are taken.

    Of the selected candidate; of every candidate when none is selected.
    """
    cells = [m.selected] if m.selected else [(p, i) for p in m.positions for i in m.layers]
    rows = [row for i in sorted({i for _, i in cells}) for row in _stability_of_layer(m, i, {p for p, _ in cells})]
    rows.sort(key=lambda row: (row["position"], row["layer"]))  # stable: the order of measures stays
    note = None
    if not ESTIMATORS[m.estimator].along_mean_difference:
        note = f"stability is that of the mean difference, whatever the estimator ({m.estimator})"
    curves = curves_of(rows, "mean", ["measure", "position", "layer"], by="n_harmful")
    return Analysis(_stability_headline(m, rows), rows, note=note, curves=curves)


def _stability_of_layer(m: AnalysisInputs, layer: int, positions: set[int]) -> Iterator[dict[str, Any]]:
    for position in sorted(positions):
        for measure, n_harmful, n_harmless, draws in _measures(m, layer, position):
            low, high = percentile_interval(draws, m.confidence)
            yield {
                "position": position,
                "layer": layer,
                "measure": measure,
                "n_harmful": n_harmful,
                "n_harmless": n_harmless,
                "mean": float(draws.mean()),
                "low": float(low),
                "high": float(high),
            }


def _measures(
    m: AnalysisInputs, layer: int, position: int
) -> Iterator[tuple[str, int, int, Float[np.ndarray, " draw"]]]:
    """(measure, harmful prompts, harmless prompts, cosines), with the same draws at every place."""
    harmful, harmless = (m.activations(name, layer, position) for name in ("harmful_train", "harmless_train"))
    n, smaller = (len(harmful), len(harmless)), min(len(harmful), len(harmless))
    sizes, halves, rng = doubling_sizes(smaller), doubling_sizes(smaller // 2), m.rng()
    if sum(n) > FEW:
        found = StabilityInPasses(harmful, harmless)
        yield "bootstrap", *n, found.bootstrap_cosines(rng, m.n_resamples)
        yield from (("subset", s, s, found.cosines_by_n_train(s, rng, m.n_resamples)) for s in sizes)
        yield from (("split", s, s, found.split_cosines_by_n_train(s, rng, m.n_resamples)) for s in halves)
        return
    arrays = harmful.together(), harmless.together()
    yield "bootstrap", *n, bootstrap_cosines(*arrays, rng, m.n_resamples)[:, 0]
    subsets = cosines_by_n_train(*arrays, sizes, rng, m.n_resamples)
    yield from (("subset", s, s, draws[:, 0]) for s, draws in zip(sizes, subsets, strict=True))
    if halves:
        splits = split_cosines_by_n_train(*arrays, halves, rng, m.n_resamples)
        yield from (("split", s, s, draws[:, 0]) for s, draws in zip(halves, splits, strict=True))


def _stability_headline(m: AnalysisInputs, rows: list[dict[str, Any]]) -> str:
    bootstrap = [r for r in rows if r["measure"] == "bootstrap" and np.isfinite(r["mean"])]
    if not bootstrap:
        return "no candidate has a direction, so there is none to be stable"
    if m.selected is None:
        least, most = (f(bootstrap, key=lambda r: r["mean"]) for f in (min, max))
        places = [f"{r['mean']:.3f} (position {r['position']}, layer {r['layer']})" for r in (least, most)]
        return f"nothing is selected, so of every candidate: bootstrap cosine {places[0]} to {places[1]}"
    (whole,) = bootstrap
    subsets, splits = ([r for r in rows if r["measure"] == measure] for measure in ("subset", "split"))
    parts = [f"bootstrap cosine {_interval_text(whole)}", _enough(subsets, whole)]
    if splits:  # the strict figure first: only its two directions share no prompt
        parts.insert(
            0, f"two halves ({splits[-1]['n_harmful']} prompts of each kind): cosine {_interval_text(splits[-1])}"
        )
    return "; ".join(parts)


def _interval_text(row: dict[str, Any]) -> str:
    return f"{row['mean']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"


def _enough(subsets: list[dict[str, Any]], whole: dict[str, Any]) -> str:
    """How many prompts make the direction of all; all of them do by construction, so that they say nothing."""
    everything = whole["n_harmful"] == whole["n_harmless"] == subsets[-1]["n_harmful"]
    fewer = subsets[:-1] if everything else subsets
    reached = [r["n_harmful"] for r in fewer if r["mean"] >= ENOUGH]
    below = f" below all {subsets[-1]['n_harmful']}" if everything else f" of prompts up to {subsets[-1]['n_harmful']}"
    with_all = f"a mean cosine of {ENOUGH} with the direction of all"
    if not reached:
        return f"no number{below} reaches {with_all}"
    return f"{min(reached)} prompts of each kind (of {subsets[-1]['n_harmful']} at most) reach {with_all}"
