"""How far along the selected direction the prompts of every cached dataset lie."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Float

from refusal_lightning.directions.projection import projections_by_layer, spread
from refusal_lightning.report.analysis_plots import Line, plot_lines
from refusal_lightning.stages.analyses.material import LAYER, Analysis, Material
from refusal_lightning.store import ActivationStore


def analyse_projection(m: Material) -> Analysis:
    """How far along the selected direction every complete prompt of the store lies, by dataset, position and layer."""
    if m.selected is None:
        raise ValueError("a projection needs a selected direction")
    groups = _groups(m.store)
    rows: list[dict[str, Any]] = []
    lines = []
    for (dataset, split, label), members in groups.items():
        values = _projections(m, members, m.directions[m.selected])
        numbers = spread(values)
        for column, position in enumerate(m.positions):
            for layer in m.layers:
                row = {"dataset": dataset, "split": split, "label": label, "prompts": len(members)}
                row |= {"position": position, "layer": layer}
                rows.append(row | {name: float(v[layer, column]) for name, v in numbers.items()})
        last = {name: v[:, -1] for name, v in numbers.items()}
        lines.append(Line(f"{len(members)} {dataset}", m.layers, last["mean"], last["q05"], last["q95"]))
    title = f"Projection on the direction of position {m.selected[0]}, layer {m.selected[1]}, at position -1"
    ylabel = "projection (mean, 5 % to 95 %)"
    plot = plot_lines(lines, title, LAYER, ylabel, upright=m.selected[1])
    there = [row for row in rows if (row["position"], row["layer"]) == m.selected]
    means = ", ".join(f"{row['dataset']} {row['mean']:.2f}" for row in sorted(there, key=lambda row: -row["mean"]))
    return Analysis(f"means at the selected place: {means}", rows, plot)


def _groups(store: ActivationStore) -> dict[tuple[str, str, str], np.ndarray]:
    """Ascending rows of the complete prompts by (dataset, split, label), in alphabetical order."""
    prompts = store.prompts
    found: dict[tuple[str, str, str], list[int]] = {}
    for i in np.flatnonzero(prompts.complete):
        key = (str(prompts.dataset[i]), str(prompts.split[i]), str(prompts.label[i]))
        found.setdefault(key, []).append(int(prompts.row[i]))
    return {key: np.array(sorted(found[key])) for key in sorted(found)}


def _projections(
    m: Material, rows: np.ndarray, direction: Float[np.ndarray, " d_model"]
) -> Float[np.ndarray, "prompt layer position"]:
    """Shard by shard and layer by layer: memory holds one layer of one shard, and the projections."""

    def layers_of(part: np.ndarray) -> Iterator[np.ndarray]:
        for layer in m.layers:
            yield m.store.read("resid_pre", part, layers=[layer], positions=m.positions)[:, 0]

    parts = [projections_by_layer(layers_of(part), direction) for part in m.store.by_shard(rows)]
    return np.concatenate(parts, axis=1).swapaxes(0, 1)
