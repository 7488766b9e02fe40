"""analyze: what the store tells about the candidates and the selected direction, without the model's weights."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from refusal_lightning.config import (
    AnalyzeConfig,
    CacheConfig,
    DataConfig,
    ModelConfig,
    RunsConfig,
    SelectConfig,
    StoreConfig,
)
from refusal_lightning.errors import UserError
from refusal_lightning.files import write_bytes
from refusal_lightning.stages.analyses import ANALYSES, Analysis, Material
from refusal_lightning.stages.console import is_main_process, say
from refusal_lightning.stages.files import digest, write_json, write_table
from refusal_lightning.stages.model import open_model
from refusal_lightning.stages.prompts import drawn_sets
from refusal_lightning.stages.refusal_tokens import settle_refusal_tokens
from refusal_lightning.stages.runs import RunFolder
from refusal_lightning.stages.select import estimated_directions, filter_prompts
from refusal_lightning.stages.stores import open_complete, require_candidates


def analyze(
    model: ModelConfig,
    data: DataConfig,
    store: StoreConfig,
    runs: RunsConfig,
    cache: CacheConfig,
    select: SelectConfig,
    analyze: AnalyzeConfig,
) -> None:
    """Measure the candidates of `select` (its filter, its first estimator) and the direction that it chose.

    Each analysis writes its own files, with what they were made from, to ``runs/<alias>/analysis``.
    """
    if not is_main_process():
        return
    chat = open_model(model)
    sets = drawn_sets(chat, data)
    run = RunFolder(runs.root, chat.alias)
    run.prepare()
    require_candidates(chat, cache)
    opened = open_complete(chat, store, cache, [h for s in sets.values() for h in s.hashes])
    if "projection" in analyze.analyses and not run.direction.is_file():
        raise UserError(
            f"{run.path} holds no selected direction to project on; run `select` first, or leave projection out of "
            "analyze.analyses"
        )
    settle_refusal_tokens(chat, opened, sets["harmful_train"], sets["harmless_train"])
    kept = filter_prompts(opened, chat, sets, select)
    estimator = select.estimators[0]
    directions = estimated_directions(estimator, opened, kept, chat.n_positions, data)
    selected = _selected(run, directions)
    material = Material(
        store=opened,
        rows={name: opened.rows(filtered.prompts.hashes) for name, filtered in kept.items()},
        directions=directions,
        selected=selected,
        tokens=[chat.tokenizer.decode([i]) for i in chat.eoi_ids],
        n_resamples=analyze.bootstrap,
        confidence=analyze.confidence,
        seed=analyze.seed,
    )
    made_from = {
        "model": chat.identity,
        "store": opened.url,
        "estimator": estimator,
        "prompts": {
            f.prompts.name: {"drawn": f.drawn, "kept": len(f.prompts), "hash": digest(f.prompts.hashes)}
            for f in kept.values()
        },
        "selected": None if selected is None else {"pos": selected[0], "layer": selected[1]},
        "bootstrap": analyze.bootstrap,
        "seed": analyze.seed,
        "confidence": analyze.confidence,
    }
    if "stability" in analyze.analyses and estimator not in ("mean_difference", "unit_mean_difference"):
        say(f"analyze: stability is that of the mean difference, whatever the estimator ({estimator})")
    for name in analyze.analyses:
        found = ANALYSES[name](material)
        say(f"{name}: {found.headline}")
        _write(run, name, found, made_from)


def _selected(run: RunFolder, directions: Float[np.ndarray, "position layer d_model"]) -> tuple[int, int] | None:
    """Position and layer of the run's selected candidate; None if there is none.

    Raises UserError if the direction that was selected is not what these candidates have there.
    """
    if not run.direction.is_file():
        return None
    direction, position, layer = run.load_direction()
    n_positions, n_layers, d_model = directions.shape
    same = -n_positions <= position < 0 <= layer < n_layers and len(direction) == d_model
    if same:
        # Not bit for bit: a store of other positions was filled in other batches, which round differently.
        candidate = directions[position, layer]
        same = bool(np.linalg.norm(direction.numpy() - candidate) <= 0.01 * np.linalg.norm(candidate))
    if not same:
        raise UserError(
            f"{run.direction} is not what these prompts give at position {position}, layer {layer}; run `select` with "
            "the same configuration first (or analyze with the one it was run with)"
        )
    return position, layer


def _write(run: RunFolder, name: str, found: Analysis, made_from: Mapping[str, object]) -> None:
    """The table as CSV and JSON, the plot, and the arrays if any; the JSON, with what it is made from, comes last."""
    write_table(run.analysis(name, "csv"), found.rows)
    write_bytes(run.analysis(name, "png"), found.plot)
    if found.arrays:
        buffer = io.BytesIO()
        np.savez(buffer, **found.arrays)  # type: ignore[arg-type]
        write_bytes(run.analysis(name, "npz"), buffer.getvalue())
    write_json(run.analysis(name, "json"), {"headline": found.headline, "made_from": made_from, "rows": found.rows})
    say(f"{name}: wrote {run.analysis(name, 'csv')}, .json and .png" + (" and .npz" if found.arrays else ""))
