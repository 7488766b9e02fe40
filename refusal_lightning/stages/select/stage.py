"""select: from the store to the refusal direction."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np

from refusal_lightning.config import (
    CacheConfig,
    DataConfig,
    ModelConfig,
    RunsConfig,
    SelectConfig,
    StoreConfig,
    TrainerConfig,
)
from refusal_lightning.directions.selection.choose import NoCandidateError, Selection, choose_by_hand, require_direction
from refusal_lightning.directions.selection.choose import select as choose
from refusal_lightning.directions.selection.filters import Thresholds
from refusal_lightning.directions.selection.partial_table import KEPT
from refusal_lightning.directions.selection.schedule import Place
from refusal_lightning.distributed.journal import Journal
from refusal_lightning.distributed.launch import distributed_stage
from refusal_lightning.distributed.process_group import require_same_on_all_ranks, require_shared_folder
from refusal_lightning.doctor.hook_proof import HookProof
from refusal_lightning.errors import UserError
from refusal_lightning.inputs.activations import open_store_with, require_candidates
from refusal_lightning.inputs.candidates import estimated_directions
from refusal_lightning.inputs.drawing import drawn_sets
from refusal_lightning.inputs.model import open_model
from refusal_lightning.inputs.prompt_filter import filter_prompts
from refusal_lightning.inputs.refusal_tokens import settle_refusal_tokens
from refusal_lightning.inputs.stored_logits import StoredLogits
from refusal_lightning.io.console import is_main_process
from refusal_lightning.io.hashing import digest, sha256_of
from refusal_lightning.io.versions import other_versions
from refusal_lightning.models import ChatModel
from refusal_lightning.runs.folder import RunFolder
from refusal_lightning.runs.made_from import working
from refusal_lightning.stages.select.artifacts import Inputs, Scored, thresholds_of, write_selection
from refusal_lightning.stages.select.cross_checks import ANSWER_KL_VERSION, answer_kl_opinion
from refusal_lightning.stages.select.kept_results import KeptResults
from refusal_lightning.stages.select.scoring import (
    ScoreTable,
    compute_scores,
    near_misses,
    next_work,
    ruled_out,
    score_bounds,
    unscored,
    work_by_hand,
)

log = logging.getLogger(__name__)

SCORE_VERSION = 3
"""Raised when the definition of a score changes: stored scores of another version are not used. 3: what blocks return
when they are stepped over, position ids, and where a shared beginning is exact."""


@distributed_stage
def select(
    model: ModelConfig,
    data: DataConfig,
    store: StoreConfig,
    trainer: TrainerConfig,
    runs: RunsConfig,
    cache: CacheConfig,
    select: SelectConfig,
) -> None:
    """Filter prompts, estimate directions, score the candidates that may win, and choose (paper, section 2.3-2.4).

    Scores that the store holds are not computed again; when it holds them all, no weights are loaded. Each estimator
    is a selection of its own: the first one's files are the run's, the others' are in ``estimators/NAME``. Files of the
    run that were made from another direction or setting are moved aside.
    """
    chat = open_model(model, trainer)
    _require_place(select, chat)
    sets = drawn_sets(chat, data)
    require_same_on_all_ranks({"model": digest(chat.identity), "prompts": digest([s.hashes for s in sets.values()])})
    run = RunFolder(runs.root, chat.alias)
    run.prepare()
    require_shared_folder(run.path, "runs.root")
    require_candidates(chat, cache)
    opened = open_store_with(chat, store, cache, [h for s in sets.values() for h in s.hashes])
    require_same_on_all_ranks(
        {"store": digest(opened.manifest)}
    )  # nothing is written to find that out: it may be one to be read only
    with working(run, "select", chat.identity, model.name, replace=runs.replace):
        refusal_tokens = settle_refusal_tokens(chat, opened, sets["harmful_train"], sets["harmless_train"])
        kept = filter_prompts(opened, chat, sets, select)
        counts = ", ".join(f"{f.prompts.name} {len(f.prompts)} of {f.drawn}" for f in kept.values())
        log.info(f"select: prompts kept {counts}")
        validation = (kept[name].prompts.token_ids for name in ("harmful_val", "harmless_val"))
        work = ["scores", "answer KL"] if select.answer_kl_tokens else ["scores"]
        proof = HookProof("select", chat, run.path / ".journal", work, *validation)
        _select_each(run, Inputs(chat, opened, kept, refusal_tokens, proof, model, data, trainer, select))


def _require_place(config: SelectConfig, chat: ChatModel) -> None:
    """Raise UserError where the candidate that is chosen by hand is none of the model's."""
    if config.position is None or config.layer is None:
        return
    if -config.position > chat.n_positions or config.layer >= chat.n_layers:
        raise UserError(
            f"select.position {config.position}, select.layer {config.layer} is no candidate: {chat.alias} has "
            f"positions {-chat.n_positions} to -1 and layers 0 to {chat.n_layers - 1}"
        )


def _select_each(run: RunFolder, inputs: Inputs) -> None:
    """A selection for each estimator. Raises UserError after the last one where one chose nothing."""
    estimators = inputs.config.estimators
    none_left: list[UserError] = []
    for estimator in estimators:
        folder = run if estimator == estimators[0] else RunFolder(run.path / "estimators", estimator)
        folder.prepare()
        if len(estimators) > 1:
            log.info(f"select: {estimator}")
        try:
            _select_one(estimator, folder, inputs)
        except NoCandidateError as error:
            none_left.append(UserError(f"{error}; the scores are in {folder.evaluations}"))
    if none_left:
        raise none_left[0]


def _select_one(estimator: str, run: RunFolder, inputs: Inputs) -> None:
    """Directions of one estimator, their scores and the choice among them, written to a run's folder."""
    started = time.perf_counter()
    chat, store, kept, config = inputs.chat, inputs.store, inputs.kept, inputs.config
    directions = estimated_directions(estimator, store, kept, chat.n_positions, inputs.data)
    harmful, harmless = kept["harmful_val"].prompts, kept["harmless_val"].prompts
    depends_on = {
        "score_version": SCORE_VERSION,
        "directions_sha256": sha256_of(directions.tobytes()),
        "harmful": harmful.hashes,
        "harmless": harmless.hashes,
        "refusal_tokens": chat.refusal_ids,
    }
    key = f"scores-{digest([chat.identity, depends_on])}"
    harmless_logits = StoredLogits(store, harmless.hashes)
    bounds = score_bounds(len(harmful), harmless_logits)
    results = KeptResults(store, run.path / ".results")
    table = ScoreTable(results, key, Journal(run.journal("scores", key)), directions.shape[:2], bounds)
    require_same_on_all_ranks({"scores at hand": {kind: int(seen.sum()) for kind, seen in table.seen.items()}})
    if others := other_versions(table.made_with):
        log.warning(f"scores in {store.url} were made with {others}; another store.root has all computed anew")
    compute = partial(
        compute_scores,
        table,
        chat=chat,
        trainer=inputs.trainer,
        directions=directions,
        harmful=harmful,
        harmless=harmless,
        harmless_logits=harmless_logits,
        batch_size=config.batch_size,
        save=lambda _: table.save(depends_on),
    )
    norms = np.linalg.norm(directions, axis=-1)
    selection = _score_and_choose(table, compute, config, norms)
    answer_kl: dict[Place, np.ndarray] = {}
    if isinstance(selection, Selection) and config.answer_kl_tokens:
        answer_kl = answer_kl_opinion(
            chat,
            inputs.trainer,
            results,
            run.journal("answer-kl", digest([key, config.answer_kl_tokens, chat.stop_ids, ANSWER_KL_VERSION])),
            harmless,
            directions,
            _best(selection),
            config.answer_kl_tokens,
            config.batch_size,
        )
    if is_main_process():
        reasons = partial(_reasons, table, thresholds_of(config), norms)
        scored = Scored(estimator, key, directions, norms, table, selection, reasons, answer_kl)
        write_selection(run, inputs, scored, lambda: time.perf_counter() - started)


def _score_and_choose(
    table: ScoreTable, compute: Callable[..., int], config: SelectConfig, norms: np.ndarray
) -> Selection | NoCandidateError:
    """Compute the scores that the choice may depend on, and choose; or, by hand, the scores of that candidate."""
    thresholds = thresholds_of(config)
    place = None if config.position is None or config.layer is None else (config.position, config.layer)
    needed = partial(next_work, config.mode, table, thresholds, norms)
    if place is not None:
        require_direction(place, norms)
        needed = partial(work_by_hand, table, place) if config.mode == "staged" else needed
    if not compute(upcoming=needed):
        log.info("select: nothing to compute, all scores are there")
    if place is not None:
        return choose_by_hand(place, table.means(), thresholds, norms, _reasons(table, thresholds, norms))
    selection = _choice(config.mode, table, thresholds, norms)
    for without in (replace(thresholds, kl=None), replace(thresholds, induce=None)):
        # Staged scoring stopped where a candidate was out; by how much it missed is what the user needs to know now.
        if config.mode == "exhaustive" or isinstance(selection, Selection) or selection.report.changes:
            break
        compute(upcoming=partial(near_misses, table, without, norms))
        selection = _choice(config.mode, table, thresholds, norms)
    return selection


def _reasons(table: ScoreTable, thresholds: Thresholds, norms: np.ndarray) -> dict[Place, str]:
    """Why candidates lack scores: left alone, or proven out before all prompts were run."""
    return unscored(table, thresholds, norms) | ruled_out(table, thresholds, norms)


def _best(selection: Selection) -> list[Place]:
    """The candidates that are looked at more closely: the best, or the one that was chosen by hand."""
    if selection.by_hand:
        return [(selection.pos, selection.layer)]
    return [(candidate.position, candidate.layer) for candidate in selection.survivors[:KEPT]]


def _choice(mode: str, table: ScoreTable, thresholds: Thresholds, norms: np.ndarray) -> Selection | NoCandidateError:
    """What the scores that are there choose, or that they choose nothing, with the reasons."""
    dropped_early = ruled_out(table, thresholds, norms) if mode == "staged" else None
    try:
        return choose(table.means(), thresholds, norms, dropped_early)
    except NoCandidateError as error:
        return error
