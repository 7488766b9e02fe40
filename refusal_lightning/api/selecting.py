"""``rl.select`` and ``rl.analyze``: from stored activations to the direction, and what else they tell."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch

from refusal_lightning.api.caching import Cached
from refusal_lightning.api.model import Model
from refusal_lightning.api.settings import divided, section
from refusal_lightning.config import AnalyzeConfig, SelectConfig
from refusal_lightning.doctor.hook_proof import HookProof
from refusal_lightning.errors import UserError
from refusal_lightning.inputs.drawing import drawn_sets
from refusal_lightning.inputs.stored_prompts import StoredPrompts
from refusal_lightning.runs.folder import SelectedDirection
from refusal_lightning.stages.analyze.analysis import AnalysisResult
from refusal_lightning.stages.analyze.opening import analysis_inputs
from refusal_lightning.stages.analyze.registry import ANALYSES
from refusal_lightning.stages.analyze.stage import analyze_directions
from refusal_lightning.stages.select.direction import select_direction
from refusal_lightning.stages.select.inputs import SelectionInputs
from refusal_lightning.stages.select.kept_results import KeptResults
from refusal_lightning.stages.select.result import SelectionResult, describe
from refusal_lightning.stages.select.runner import Runner

log = logging.getLogger(__name__)


def select(model: Model, store: Cached, *, estimator: str = "mean_difference", **settings: Any) -> SelectionResult:
    """Filter the prompts, score the candidates that may win, and choose one (paper, section 2.3 and 2.4).

    ``store`` is what ``rl.cache`` gave. ``estimator`` draws the candidates from the activations. ``settings`` are the
    other keys of a configuration's select section (``SelectConfig``): ``mode``, ``kl_threshold``,
    ``induce_threshold``, ``prune_layers``, ``position`` and ``layer`` ... The result has ``direction``, ``scores``
    (an xarray Dataset), ``candidates`` (a DataFrame) and ``figure``. Scores that the store holds are not computed
    again; the model's hooks are proved before the others are. Raises UserError; where no candidate passes, only
    ``result.direction`` raises it.
    """
    model.require_plain("select")
    config = section(SelectConfig, {**settings, "estimators": [estimator]}, "select")
    inputs = SelectionInputs.open(model.chat, store.data, store.store_config, store.cache_config, config)
    work = ["scores", "answer KL"] if config.answer_kl_tokens else ["scores"]
    validation = (inputs.kept[role].prompts.token_ids for role in ("harmful_val", "harmless_val"))
    proof = HookProof("select", inputs.chat, model.journals, work, *validation)
    results = KeptResults(inputs.store, model.journals / "results")
    runner = Runner(model.trainer, results, lambda kind, key: model.journals / f"{kind}-{key}", proof)
    result = select_direction(inputs, estimator, config, runner)
    for line in describe(result):
        log.info(line)
    return result


def analyze(
    model: Model,
    store: Cached,
    result: SelectionResult | None = None,
    analyses: Sequence[str] | None = None,
    **settings: Any,
) -> AnalysisResult:
    """Measure the candidates, and the selected direction if there is one, from the stored activations alone.

    ``store`` is what ``rl.cache`` gave, for this ``model``, whose weights are not needed. ``result`` of ``rl.select``
    gives the filter, the estimator and the selected direction; without it the ``settings`` ``harmful_threshold``,
    ``harmless_threshold`` and ``estimators`` of ``SelectConfig`` do, and nothing is selected. ``analyses`` are names
    (default: all that need no more than there is): separability, similarity, stability, projection, or registered ones.
    Further ``settings`` are ``bootstrap``, ``seed`` and ``confidence`` of ``AnalyzeConfig``. Of what comes back,
    ``analyses["separability"].frame`` is a DataFrame, ``.headline`` one line. Raises UserError.
    """
    filters = () if result is not None else ("harmful_threshold", "harmless_threshold", "estimators")
    parts = divided(settings, {"analyze": ("bootstrap", "seed", "confidence"), "select": filters})
    named = {} if analyses is None else {"analyses": list(analyses)}
    config = section(AnalyzeConfig, {**parts["analyze"], **named}, "analyze")
    ANALYSES.require(config.analyses, "analyze.analyses")
    chosen = None if result is None else _chosen(result)
    if analyses is None and chosen is None:
        config.analyses = [name for name in config.analyses if not ANALYSES[name].needs_direction]
    for name in config.analyses:
        if ANALYSES[name].needs_direction and chosen is None:
            raise UserError(f"{name} is of a selected direction; give rl.analyze the result of rl.select")
    filtering = section(SelectConfig, parts["select"], "select") if result is None else result.settings
    prompts = StoredPrompts.open(model.chat, drawn_sets(model.chat, store.data), store.store_config, store.cache_config)
    inputs = analysis_inputs(prompts, lambda: chosen, store.data, store.cache_config, filtering, config)
    return analyze_directions(inputs, config.analyses)


def _chosen(result: SelectionResult) -> SelectedDirection | None:
    if result.vector is None:
        return None
    made = result.direction
    return SelectedDirection(torch.from_numpy(result.vector), made.position, made.layer)
