"""select: from the store to the refusal direction."""

from __future__ import annotations

import hashlib
import time
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from refusal_lightning.config import (
    CacheConfig,
    DataConfig,
    ModelConfig,
    RunsConfig,
    SelectConfig,
    StoreConfig,
    TrainerConfig,
)
from refusal_lightning.directions.candidates import CandidateScores, rows
from refusal_lightning.directions.estimators import ESTIMATORS, estimate_directions
from refusal_lightning.directions.filters import Thresholds
from refusal_lightning.directions.refusal_score import refusal_scores
from refusal_lightning.directions.selection import NoCandidateError, Selection
from refusal_lightning.directions.selection import select as choose
from refusal_lightning.directions.staging import Place
from refusal_lightning.directions.uncertainty import uncertainty
from refusal_lightning.errors import UserError
from refusal_lightning.files import write_bytes, write_text
from refusal_lightning.models import ChatModel
from refusal_lightning.report.plots import plot_scores
from refusal_lightning.stages.company import agree, in_company, require_shared, wait_for_all
from refusal_lightning.stages.console import is_main_process, say
from refusal_lightning.stages.files import digest, write_json
from refusal_lightning.stages.model import open_model
from refusal_lightning.stages.prompts import PromptSet, categories_of, drawn_sets
from refusal_lightning.stages.refusal_tokens import settle_refusal_tokens
from refusal_lightning.stages.runs import RunFolder, write_tensor
from refusal_lightning.stages.scoring import (
    KEPT,
    ScoreTable,
    compute_scores,
    near_misses,
    next_work,
    ruled_out,
    score_bounds,
)
from refusal_lightning.stages.second_opinion import answer_kl_opinion, cosmic_opinion
from refusal_lightning.stages.stored_logits import StoredLogits
from refusal_lightning.stages.stores import open_complete, require_candidates
from refusal_lightning.store import ActivationStore
from refusal_lightning.writers.journal import Journal

SCORE_VERSION = 2
"""Raised when the definition of a score changes: stored scores of another version are not used."""


@dataclass(frozen=True)
class Filtered:
    """A prompt set after the filter on baseline refusal scores, which are beside it."""

    prompts: PromptSet
    scores: np.ndarray
    drawn: int


@in_company
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
    is a selection of its own: the first one's files are the run's, the others' are in ``estimators/NAME``.
    """
    chat = open_model(model, trainer)
    sets = drawn_sets(chat, data)
    agree({"model": digest(chat.identity), "prompts": digest([s.hashes for s in sets.values()])})
    run = RunFolder(runs.root, chat.alias)
    run.prepare()
    require_shared(store.root, "store.root")
    require_shared(run.path, "runs.root")
    require_candidates(chat, cache)
    opened = open_complete(chat, store, cache, [h for s in sets.values() for h in s.hashes])
    refusal_tokens = settle_refusal_tokens(chat, opened, sets["harmful_train"], sets["harmless_train"])
    kept = filter_prompts(opened, chat, sets, select)
    say("select: prompts kept " + ", ".join(f"{f.prompts.name} {len(f.prompts)} of {f.drawn}" for f in kept.values()))
    one = len(select.estimators) == 1
    none_left: list[UserError] = []
    for estimator in select.estimators:
        folder = run if estimator == select.estimators[0] else RunFolder(run.path / "estimators", estimator)
        folder.prepare()
        if not one:
            say(f"select: {estimator}")
        try:
            _select_one(estimator, folder, chat, opened, kept, refusal_tokens, model, data, trainer, select)
        except NoCandidateError as error:
            none_left.append(UserError(f"{error}; the scores are in {folder.evaluations}"))
    if none_left:
        raise none_left[0]


def _select_one(
    estimator: str,
    run: RunFolder,
    chat: ChatModel,
    store: ActivationStore,
    kept: dict[str, Filtered],
    refusal_tokens: list[dict[str, Any]],
    model: ModelConfig,
    data: DataConfig,
    trainer: TrainerConfig,
    config: SelectConfig,
) -> None:
    """Directions of one estimator, their scores and the choice among them, written to a run's folder."""
    started = time.perf_counter()
    directions = estimated_directions(estimator, store, kept, chat.n_positions, data)
    norms = np.linalg.norm(directions, axis=-1)
    thresholds = Thresholds(config.kl_threshold, config.induce_threshold, config.prune_layers)
    harmful, harmless = kept["harmful_val"].prompts, kept["harmless_val"].prompts
    depends_on = {
        "score_version": SCORE_VERSION,
        "directions_sha256": hashlib.sha256(directions.tobytes()).hexdigest(),
        "harmful": harmful.hashes,
        "harmless": harmless.hashes,
        "refusal_tokens": chat.refusal_ids,
    }
    key = f"scores-{digest([chat.identity, depends_on])}"
    harmless_logits = StoredLogits(store, harmless.hashes)
    n_positions, n_layers, _ = directions.shape
    bounds = score_bounds(len(harmful), harmless_logits)
    table = ScoreTable(store, key, Journal(run.journal("scores", key)), (n_positions, n_layers), bounds)

    compute = partial(
        compute_scores,
        table,
        chat=chat,
        trainer=trainer,
        directions=directions,
        harmful=harmful,
        harmless=harmless,
        harmless_logits=harmless_logits,
        batch_size=config.batch_size,
        save=partial(_save, table, depends_on),
    )
    if not compute(upcoming=partial(next_work, config.mode, table, thresholds, norms)):
        say(f"select: nothing to compute, all scores are in {store.url}")
    selection = _choice(config.mode, table, thresholds, norms)
    for without in (replace(thresholds, kl=None), replace(thresholds, induce=None)):
        # Staged scoring stopped where a candidate was out; by how much it missed is what the user needs to know now.
        if config.mode == "exhaustive" or isinstance(selection, Selection) or selection.report.changes:
            break
        wait_for_all()  # the journal of the scores above is gone before the next begins
        compute(upcoming=partial(near_misses, table, without, norms))
        selection = _choice(config.mode, table, thresholds, norms)
    scores = table.means()
    answer_kl: dict[Place, np.ndarray] = {}
    if isinstance(selection, Selection) and config.answer_kl_tokens:
        answer_kl = answer_kl_opinion(
            chat,
            trainer,
            store,
            run.journal("answer-kl", digest([key, config.answer_kl_tokens])),
            harmless,
            directions,
            [(candidate.position, candidate.layer) for candidate in selection.survivors[:KEPT]],
            config.answer_kl_tokens,
            config.batch_size,
        )
    if not is_main_process():
        return

    baseline = {
        "harmful": float(kept["harmful_val"].scores.mean()),
        "harmless": float(kept["harmless_val"].scores.mean()),
    }
    write_tensor(run.mean_diffs, torch.from_numpy(directions))
    write_json(run.evaluations, rows(scores))
    if isinstance(selection, NoCandidateError):
        _remove_choice(run)
        write_json(run.filtered, [])
        write_text(run.filter_report, selection.report.text() + "\n")
        _plot(run, scores, chat, baseline, None)
        say(selection.report.text())
        raise selection
    cosmic = cosmic_opinion(store, harmful, harmless, directions, selection)
    certainty = uncertainty(
        table.prompt_scores(), thresholds, norms, np.random.default_rng(data.seed), hopeless=table.computed_nan()
    )
    write_json(run.filtered, [candidate._asdict() for candidate in selection.survivors])
    write_text(run.filter_report, selection.report.text() + "\n")
    write_json(run.uncertainty, certainty.to_json())
    write_json(run.cosmic, cosmic)
    if answer_kl:
        write_json(run.answer_kl, _answer_kl_rows(answer_kl, config.answer_kl_tokens))
    write_tensor(run.direction, torch.from_numpy(directions[selection.pos, selection.layer]))
    write_json(run.direction_metadata, {"pos": selection.pos, "layer": selection.layer})
    _plot(run, scores, chat, baseline, selection)
    run.record_stage(
        "select",
        {
            "config": {"model": asdict(model), "data": asdict(data), "select": asdict(config)},
            "estimator": estimator,
            "model": chat.identity,
            "store": store.url,
            "prompts": {
                f.prompts.name: {"drawn": f.drawn, "kept": len(f.prompts), "hash": digest(f.prompts.hashes)}
                for f in kept.values()
            },
            "refusal_tokens": refusal_tokens,
            "scores": key,
            "baseline_refusal_score": baseline,
            "selected": selection.scores._asdict(),
            "margin": selection.margin,
            "direction_norm": float(norms[selection.pos, selection.layer]),
        },
        seconds=time.perf_counter() - started,
    )
    best = selection.scores
    say(
        f"select: position {best.position}, layer {best.layer} of {n_layers}: bypass {best.refusal_score:.3f} "
        f"(baseline {baseline['harmful']:.3f}), induce {best.steering_score:.3f} (baseline "
        f"{baseline['harmless']:.3f}), KL {best.kl_div_score:.3f}; {len(selection.survivors)} of "
        f"{n_positions * n_layers} candidates passed"
    )
    say(f"select: {certainty.summary()}")
    (pos, layer), count = cosmic["best_of_survivors"], cosmic["rank_of_selected"]
    agrees = "agrees" if not count else f"prefers {count} of the survivors, first position {pos}, layer {layer}"
    say(f"select: COSMIC's cosine criterion (a second opinion, no forward pass) {agrees}")
    if answer_kl:
        kl = answer_kl[selection.pos, selection.layer].mean()
        say(f"select: KL over the first {config.answer_kl_tokens} answer tokens {kl:.3f}")
    say(f"select: wrote {run.path}")


def _choice(mode: str, table: ScoreTable, thresholds: Thresholds, norms: np.ndarray) -> Selection | NoCandidateError:
    """What the scores that are there choose, or that they choose nothing, with the reasons."""
    dropped_early = ruled_out(table, thresholds, norms) if mode == "staged" else None
    try:
        return choose(table.means(), thresholds, norms, dropped_early)
    except NoCandidateError as error:
        return error


def filter_prompts(
    store: ActivationStore, chat: ChatModel, sets: dict[str, PromptSet], config: SelectConfig
) -> dict[str, Filtered]:
    """Keep harmful prompts that the model refuses and harmless ones that it does not, by the stored baseline.

    Raises UserError when a set is left empty, with the scores' range.
    """
    kept: dict[str, Filtered] = {}
    for name, prompts in sets.items():
        logits = StoredLogits(store, prompts.hashes)
        scores = logits.each(lambda piece: refusal_scores(piece, chat.refusal_ids))
        harmful = name.startswith("harmful")
        threshold = config.harmful_threshold if harmful else config.harmless_threshold
        keep = np.isfinite(scores)
        if threshold is not None:
            keep = scores > threshold if harmful else scores < threshold
        index = np.flatnonzero(keep)
        if not len(index):
            side, rule = ("harmful", "above") if harmful else ("harmless", "below")
            raise UserError(
                f"all prompts filtered out: none of {len(prompts)} {prompts.name} prompts has a refusal score {rule} "
                f"select.{side}_threshold ({threshold}); their scores go from {np.nanmin(scores):.2f} to "
                f"{np.nanmax(scores):.2f}. Check model.refusal_tokens and the chat template, or move the threshold"
            )
        kept[name] = Filtered(prompts.take(index.tolist()), scores[index], len(prompts))
    return kept


def mean_differences(store: ActivationStore, harmful: PromptSet, harmless: PromptSet, n_positions: int) -> np.ndarray:
    """Harmful minus harmless means (paper, eq. 1 and 2), float64 ``[position, layer, d_model]``."""
    positions = range(-n_positions, 0)
    means = [store.mean("resid_pre", prompts.hashes, positions=positions) for prompts in (harmful, harmless)]
    return np.ascontiguousarray((means[0] - means[1]).transpose(1, 0, 2))


def estimated_directions(
    estimator: str, store: ActivationStore, kept: dict[str, Filtered], n_positions: int, data: DataConfig
) -> np.ndarray:
    """The candidates' directions by an estimator, float64 ``[position, layer, d_model]``, one layer at a time."""
    harmful, harmless = kept["harmful_train"].prompts, kept["harmless_train"].prompts
    if estimator == "mean_difference":  # from sums over shards: the prompts' activations are never all in memory
        return mean_differences(store, harmful, harmless, n_positions)
    if estimator == "category_means":
        categories = categories_of(data, harmful.instructions)
        return category_mean_differences(store, harmful, harmless, categories, n_positions)
    classes = [store.rows(prompts.hashes) for prompts in (harmful, harmless)]

    def of_layer(layer: int) -> tuple[np.ndarray, np.ndarray]:
        read = partial(store.read, "resid_pre", layers=[layer], positions=range(-n_positions, 0), dtype=np.float64)
        first, second = (read(rows)[:, 0] for rows in classes)
        return first, second

    layers = (of_layer(layer) for layer in store.layout.layers)
    return np.ascontiguousarray(estimate_directions(ESTIMATORS[estimator], layers))


def category_mean_differences(
    store: ActivationStore, harmful: PromptSet, harmless: PromptSet, categories: list[str], n_positions: int
) -> np.ndarray:
    """Mean over categories of the harmful prompts' means, less the harmless mean: each category counts the same,
    however many prompts it has. float64 ``[position, layer, d_model]``."""
    positions = range(-n_positions, 0)
    of_category: dict[str, list[str]] = {}
    for category, prompt in zip(categories, harmful.hashes, strict=True):
        of_category.setdefault(category, []).append(prompt)
    means = [store.mean("resid_pre", hashes, positions=positions) for _, hashes in sorted(of_category.items())]
    difference = np.mean(means, axis=0) - store.mean("resid_pre", harmless.hashes, positions=positions)
    return np.ascontiguousarray(difference.transpose(1, 0, 2))


def _answer_kl_rows(answer_kl: dict[Place, np.ndarray], n_tokens: int) -> list[dict[str, Any]]:
    return [
        {"position": position, "layer": layer, "n_tokens": n_tokens, "kl": float(kl.mean())}
        for (position, layer), kl in answer_kl.items()
    ]


def _save(table: ScoreTable, depends_on: dict[str, Any]) -> None:
    if is_main_process():
        table.save(depends_on)


def _remove_choice(run: RunFolder) -> None:
    """An earlier choice must not stand beside scores and thresholds that do not give it."""
    for path in (run.direction, run.direction_metadata, run.uncertainty, run.cosmic, run.answer_kl):
        path.unlink(missing_ok=True)


def _plot(
    run: RunFolder,
    scores: CandidateScores,
    chat: ChatModel,
    baseline: dict[str, float],
    selection: Selection | None,
) -> None:
    tokens = [chat.tokenizer.decode([i]) for i in chat.eoi_ids]
    chosen = None if selection is None else (selection.pos, selection.layer)
    for name, png in plot_scores(scores, tokens, baseline, chosen).items():
        write_bytes(run.evaluations.parent / f"{name}.png", png)
