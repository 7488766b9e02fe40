"""From the store and the run's folder to what the analyses work on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float

from refusal_lightning.config import AnalyzeConfig, CacheConfig, DataConfig, SelectConfig
from refusal_lightning.data.labels import Labels
from refusal_lightning.directions.estimators.registry import ESTIMATORS
from refusal_lightning.errors import UserError
from refusal_lightning.inputs.candidates import estimated_directions
from refusal_lightning.inputs.drawing import datasets_of
from refusal_lightning.inputs.prompts import Filtered
from refusal_lightning.inputs.stored_prompts import StoredPrompts
from refusal_lightning.io.hashing import digest
from refusal_lightning.runs.folder import RunFolder, SelectedDirection, direction_digest
from refusal_lightning.runs.made_from import MadeFrom
from refusal_lightning.stages.analyze.inputs import AnalysisInputs, Datasets
from refusal_lightning.stages.analyze.registry import ANALYSES


def open_analysis_inputs(
    prompts: StoredPrompts,
    run: RunFolder,
    data: DataConfig,
    cache: CacheConfig,
    select: SelectConfig,
    analyze: AnalyzeConfig,
) -> AnalysisInputs:
    """The candidates of `select` (its filter, its first estimator) and the direction that it chose, if it has.

    Raises UserError, also where an analysis needs a direction that is not there.
    """
    require_direction(run, analyze.analyses)

    def selected() -> SelectedDirection | None:
        return run.load_direction() if run.direction.is_file() else None

    return analysis_inputs(prompts, selected, data, cache, select, analyze, str(run.direction))


def analysis_inputs(
    prompts: StoredPrompts,
    direction: Callable[[], SelectedDirection | None],
    data: DataConfig,
    cache: CacheConfig,
    select: SelectConfig,
    analyze: AnalyzeConfig,
    where: str = "the direction",
) -> AnalysisInputs:
    """The candidates of `select` and a direction that was chosen among them, if any.

    The direction is asked for when the candidates are there; messages call it ``where``. Raises UserError.
    """
    chat = prompts.chat
    kept = prompts.kept(select).sets
    estimator = select.estimators[0]
    directions = estimated_directions(estimator, prompts.store, kept, chat.n_positions, data)
    selected = _place_among(direction(), directions, where)
    datasets: Datasets = {}
    if any(ANALYSES[name].needs_datasets for name in analyze.analyses):
        datasets = datasets_of(chat, data, cache, prompts.sets)
    return AnalysisInputs(
        store=prompts.store,
        rows={name: prompts.store.rows(filtered.prompts.hashes) for name, filtered in kept.items()},
        datasets=datasets,
        estimator=estimator,
        directions=directions,
        selected=None if selected is None else selected[:2],
        position_tokens=[chat.tokenizer.decode([i]) for i in chat.eoi_ids],
        n_resamples=analyze.bootstrap,
        confidence=analyze.confidence,
        seed=analyze.seed,
        made_from=_made_from(prompts, estimator, kept, selected, analyze),
        labels=Labels.of(data.labels),
    )


def require_direction(run: RunFolder, analyses: Sequence[str]) -> None:
    """Raise UserError where one of these analyses is of the selected direction, and there is none."""
    for name in analyses:
        if ANALYSES[name].needs_direction and not run.direction.is_file():
            raise UserError(
                f"{run.path} holds no selected direction, which {name} is of; run `select` first, or leave {name} out "
                "of analyze.analyses"
            )


def _made_from(
    prompts: StoredPrompts,
    estimator: str,
    kept: Mapping[str, Filtered],
    selected: tuple[int, int, str] | None,
    config: AnalyzeConfig,
) -> MadeFrom:
    """What every analysis depends on."""
    plugin = ESTIMATORS.origin(estimator)
    return {
        "model": prompts.chat.identity,
        "store": prompts.store.url,
        "estimator": estimator,
        **({"estimator_from": plugin} if plugin else {}),
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


def _place_among(
    chosen: SelectedDirection | None, directions: Float[np.ndarray, "position layer d_model"], where: str
) -> tuple[int, int, str] | None:
    """Position, layer and digest of a selected direction; None if there is none.

    Raises UserError if the direction that was selected is not what these candidates have there.
    """
    if chosen is None:
        return None
    direction, position, layer = chosen
    n_positions, n_layers, d_model = directions.shape
    same = -n_positions <= position < 0 <= layer < n_layers and len(direction) == d_model
    if same:
        # Not bit for bit: a store of other positions was filled in other batches, which round differently.
        candidate = directions[position, layer]
        same = bool(np.linalg.norm(direction.numpy() - candidate) <= 0.01 * np.linalg.norm(candidate))
    if not same:
        raise UserError(
            f"{where} is not what these prompts give at position {position}, layer {layer}; run `select` with "
            "the same configuration first (or analyze with the one it was run with)"
        )
    return position, layer, direction_digest(direction, position, layer)
