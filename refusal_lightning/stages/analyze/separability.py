"""How well each candidate tells held-out prompts of the two kinds apart."""

from __future__ import annotations

from typing import Any

import numpy as np

from refusal_lightning.directions.analysis.separability import separability
from refusal_lightning.stages.analyze.analysis import Analysis, curves_of
from refusal_lightning.stages.analyze.inputs import AnalysisInputs


def analyse_separability(m: AnalysisInputs) -> Analysis:
    """AUROC of every candidate on the validation prompts, which its direction was not estimated from."""
    layers = ((m.projections("harmful_val", i), m.projections("harmless_val", i)) for i in m.layers)
    found = separability(layers, m.rng(), m.n_resamples, m.confidence)
    rows = [
        {
            "position": p,
            "layer": i,
            "auroc": float(found.auroc[p, i]),
            "low": float(found.low[p, i]),
            "high": float(found.high[p, i]),
        }
        for p in m.positions
        for i in m.layers
    ]
    return Analysis(_separability_headline(m, rows), rows, curves=curves_of(rows, "auroc", ["position"], by="layer"))


def _separability_headline(m: AnalysisInputs, rows: list[dict[str, Any]]) -> str:
    defined = [row for row in rows if np.isfinite(row["auroc"])]
    if not defined:
        return "no candidate has a direction, so none separates"

    def text(row: dict[str, Any]) -> str:
        place = f"position {row['position']}, layer {row['layer']}"
        return f"{row['auroc']:.3f} [{row['low']:.3f}, {row['high']:.3f}] at {place}"

    best = max(defined, key=lambda row: row["auroc"])
    equal = sum(row["auroc"] == best["auroc"] for row in defined) - 1
    line = f"best AUROC {text(best)}" + (f" (and {equal} others)" if equal else "")
    chosen = [text(row) for row in rows if (row["position"], row["layer"]) == m.selected]
    return f"{line}; selected: {chosen[0]}" if chosen else line
