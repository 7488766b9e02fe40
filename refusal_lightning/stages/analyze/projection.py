"""How far along the selected direction the prompts of every cached dataset lie."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float

from refusal_lightning.directions.analysis.projection import projections, spread
from refusal_lightning.io.hashing import digest
from refusal_lightning.stages.analyze.analysis import Analysis, curves_of
from refusal_lightning.stages.analyze.inputs import AnalysisInputs


def analyse_projection(m: AnalysisInputs) -> Analysis:
    """How far along the selected direction the configuration's prompts lie, by dataset, position and layer.

    Labels and sets are those of the configuration at hand. What the store holds besides is counted, and left out.
    """
    if m.selected is None:
        raise ValueError("a projection needs a selected direction")
    groups, others = _groups(m)
    rows: list[dict[str, Any]] = []
    for (dataset, split, label), members in groups.items():
        direction = m.directions[m.selected]
        of_layer = [spread(_projections(m, members, layer, direction)) for layer in m.layers]
        numbers = {name: np.stack([found[name] for found in of_layer]) for name in of_layer[0]}
        for column, position in enumerate(m.positions):
            for layer in m.layers:
                row = {"dataset": dataset, "split": split, "label": label, "prompts": len(members)}
                row |= {"position": position, "layer": layer}
                rows.append(row | {name: float(v[layer, column]) for name, v in numbers.items()})
    there = [row for row in rows if (row["position"], row["layer"]) == m.selected]
    means = ", ".join(f"{row['dataset']} {row['mean']:.2f}" for row in sorted(there, key=lambda row: -row["mean"]))
    left_out = f"; {others} prompts of the store are in no set of this configuration" if others else ""
    datasets = {name: digest(hashes) for (name, _, _), hashes in m.datasets.items()}
    return Analysis(
        f"means at the selected place: {means}{left_out}",
        rows,
        made_from={"datasets": datasets},
        curves=curves_of(rows, "mean", ["dataset", "position"], by="layer"),
    )


def _groups(m: AnalysisInputs) -> tuple[dict[tuple[str, str, str], np.ndarray], int]:
    """Ascending rows of the configuration's sets, as far as they are in the store, and how many other prompts are."""
    wanted = {h for hashes in m.datasets.values() for h in hashes}
    lacking = set(m.store.lacking(list(wanted)))
    there = {key: [h for h in hashes if h not in lacking] for key, hashes in m.datasets.items()}
    groups = {key: np.sort(m.store.rows(hashes)) for key, hashes in there.items() if hashes}
    return groups, len(m.store.complete_rows()) - len(wanted - lacking)


def _projections(
    m: AnalysisInputs, rows: np.ndarray, layer: int, direction: Float[np.ndarray, " d_model"]
) -> Float[np.ndarray, "prompt position"]:
    """Shard by shard: memory holds one layer of one shard, and one layer's projections."""
    read = partial(m.store.read, "resid_pre", layers=[layer], positions=m.positions)
    return np.concatenate([projections(read(part)[:, 0], direction) for part in m.store.by_shard(rows)])
