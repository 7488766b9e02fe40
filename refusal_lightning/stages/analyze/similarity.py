"""Which candidates are one direction."""

from __future__ import annotations

import numpy as np

from refusal_lightning.directions.analysis.similarity import cosine_matrix
from refusal_lightning.stages.analyze.analysis import Analysis, curves_of
from refusal_lightning.stages.analyze.inputs import AnalysisInputs


def analyse_similarity(m: AnalysisInputs) -> Analysis:
    """Cosine between every two candidates; the table has the pairs of one position or of one layer."""
    cosines = cosine_matrix(m.directions)
    rows = [
        {"position": p, "layer": i, "other_position": q, "other_layer": j, "cosine": float(cosines[p, i, q, j])}
        for p in m.positions
        for i in m.layers
        for q in m.positions
        for j in m.layers
        if (p == q and i < j) or (i == j and p < q)
    ]
    next_layer = [row for row in rows if row["other_layer"] == row["layer"] + 1]
    neighbours = np.array([row["cosine"] for row in next_layer])
    headline = "no two neighbouring layers have directions"
    if np.isfinite(neighbours).any():
        headline = f"neighbouring layers have a cosine of {np.nanmean(neighbours):.3f} on average"
    if m.selected is not None:
        near = int(np.sum(cosines[m.selected] >= 0.9)) - 1
        headline += f"; {near} of {cosines[0, 0].size - 1} other candidates have 0.9 or more with the selected one"
    arrays = {"cosine": cosines, "position": np.array(m.positions), "layer": np.array(m.layers)}
    curves = curves_of(next_layer, "cosine", ["position"], by="layer")
    return Analysis(headline, rows, arrays, curves=curves)
