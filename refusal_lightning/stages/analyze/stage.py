"""analyze: what the store tells about the candidates and the selected direction, without the model's weights."""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict

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
from refusal_lightning.inputs.activations import open_store_with, require_candidates
from refusal_lightning.inputs.candidates import estimated_directions
from refusal_lightning.inputs.model import open_model
from refusal_lightning.inputs.prompt_filter import filter_prompts
from refusal_lightning.inputs.prompts import Filtered, datasets_of, drawn_sets
from refusal_lightning.inputs.refusal_tokens import settle_refusal_tokens
from refusal_lightning.io.console import is_main_process
from refusal_lightning.io.files import write_bytes
from refusal_lightning.io.serialization import digest, write_json, write_table
from refusal_lightning.models import ChatModel
from refusal_lightning.runs.folder import RunFolder, direction_digest
from refusal_lightning.runs.made_from import MadeFrom, make_room, working
from refusal_lightning.stages.analyze.registry import ANALYSES, Analysis, AnalysisInputs

log = logging.getLogger(__name__)


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
    started = time.perf_counter()
    chat = open_model(model)
    sets = drawn_sets(chat, data)
    run = RunFolder(runs.root, chat.alias)
    run.prepare()
    require_candidates(chat, cache)
    opened = open_store_with(chat, store, cache, [h for s in sets.values() for h in s.hashes])
    if "projection" in analyze.analyses and not run.direction.is_file():
        raise UserError(
            f"{run.path} holds no selected direction to project on; run `select` first, or leave projection out of "
            "analyze.analyses"
        )
    with working(run, "analyze", chat.identity, model.name):
        settle_refusal_tokens(chat, opened, sets["harmful_train"], sets["harmless_train"])
        kept = filter_prompts(opened, chat, sets, select)
        estimator = select.estimators[0]
        directions = estimated_directions(estimator, opened, kept, chat.n_positions, data)
        selected = _selected(run, directions)
        material = AnalysisInputs(
            store=opened,
            rows={name: opened.rows(filtered.prompts.hashes) for name, filtered in kept.items()},
            datasets=datasets_of(chat, data, cache, sets) if "projection" in analyze.analyses else {},
            directions=directions,
            selected=None if selected is None else selected[:2],
            tokens=[chat.tokenizer.decode([i]) for i in chat.eoi_ids],
            n_resamples=analyze.bootstrap,
            confidence=analyze.confidence,
            seed=analyze.seed,
        )
        made_from = _made_from(chat, opened.url, estimator, kept, selected, analyze)
        if "stability" in analyze.analyses and estimator not in ("mean_difference", "unit_mean_difference"):
            log.info(f"analyze: stability is that of the mean difference, whatever the estimator ({estimator})")
        _analyse(run, analyze.analyses, material, made_from)
        entry = {"config": {"analyze": asdict(analyze)}, "model": chat.identity, "direction": made_from["direction"]}
        run.record_stage("analyze", entry, seconds=time.perf_counter() - started)


def _made_from(
    chat: ChatModel,
    store: str,
    estimator: str,
    kept: Mapping[str, Filtered],
    selected: tuple[int, int, str] | None,
    config: AnalyzeConfig,
) -> MadeFrom:
    """What every analysis depends on."""
    return {
        "model": chat.identity,
        "store": store,
        "estimator": estimator,
        "prompts": {
            f.prompts.name: {"drawn": f.drawn, "kept": len(f.prompts), "hash": digest(f.prompts.hashes)}
            for f in kept.values()
        },
        "selected": None if selected is None else {"pos": selected[0], "layer": selected[1]},
        "direction": None if selected is None else selected[2],
        "bootstrap": config.bootstrap,
        "seed": config.seed,
        "confidence": config.confidence,
    }


def _analyse(run: RunFolder, names: Sequence[str], material: AnalysisInputs, made_from: MadeFrom) -> None:
    """Each analysis, written as soon as it is done."""
    same = {name: value for name, value in made_from.items() if name != "store"}  # which may be moved
    common = {"model": digest(made_from["model"]), "direction": made_from["direction"], "analysis": digest(same)}
    datasets = {name: digest(hashes) for (name, _, _), hashes in material.datasets.items()}
    extra = {name: {"datasets": datasets} if name == "projection" else {} for name in names}
    files = {
        run.analysis(name, suffix): common | extra[name]
        for name in names
        for suffix in ("csv", "png", "json", *(["npz"] if name == "similarity" else []))
    }
    make_room(run, "analyze", files, lambda _, other: common.items() <= other.items())
    for name in names:
        found = ANALYSES[name](material)
        log.info(f"{name}: {found.headline}")
        _write(run, name, found, made_from | extra[name])


def _selected(run: RunFolder, directions: Float[np.ndarray, "position layer d_model"]) -> tuple[int, int, str] | None:
    """Position, layer and digest of the run's selected direction; None if there is none.

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
    return position, layer, direction_digest(direction, position, layer)


def _write(run: RunFolder, name: str, found: Analysis, made_from: Mapping[str, object]) -> None:
    """The table as CSV and JSON, the plot, and the arrays if any; the JSON, with what it is made from, comes last."""
    write_table(run.analysis(name, "csv"), found.rows)
    write_bytes(run.analysis(name, "png"), found.plot)
    if found.arrays:
        buffer = io.BytesIO()
        np.savez(buffer, **found.arrays)  # type: ignore[arg-type]
        write_bytes(run.analysis(name, "npz"), buffer.getvalue())
    write_json(run.analysis(name, "json"), {"headline": found.headline, "made_from": made_from, "rows": found.rows})
    log.info(f"{name}: wrote {run.analysis(name, 'csv')}, .json and .png" + (" and .npz" if found.arrays else ""))
