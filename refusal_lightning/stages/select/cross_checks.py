"""Beside the paper's criterion: COSMIC's cosines, from the store alone, and KL over whole answers."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from refusal_lightning.directions.metrics.cosmic import cosmic_scores, least_similar_layers
from refusal_lightning.directions.selection.candidates import Place
from refusal_lightning.directions.selection.choose import Selection
from refusal_lightning.distributed.journal import Journal, Record
from refusal_lightning.distributed.predict import PredictLoop, run_journaled
from refusal_lightning.inputs.prompts import PromptSet
from refusal_lightning.io.console import is_main_process
from refusal_lightning.io.hashing import digest
from refusal_lightning.stages.select.runner import Runner
from refusal_lightning.stages.select.scoring import Candidates
from refusal_lightning.store import ActivationStore

log = logging.getLogger(__name__)

ANSWER_KL_VERSION = 1
"""Raised when the definition of the KL over answers changes: stored values of another version are not used."""


def cosmic_opinion(
    store: ActivationStore,
    harmful: PromptSet,
    harmless: PromptSet,
    directions: Float[np.ndarray, "position layer d_model"],
    selection: Selection,
) -> dict[str, Any]:
    """COSMIC's criterion (see ``directions.cosmic`` for what is theirs) on the validation prompts, as JSON.

    ``best`` is its choice among all candidates, ``best_of_survivors`` among those that pass the paper's filter;
    ``rank_of_selected`` says how many of these it prefers to the paper's choice.
    """
    means = [store.mean("resid_pre", prompts.hashes, positions=[-1])[:, 0] for prompts in (harmful, harmless)]
    scores = cosmic_scores(means[0], means[1], directions, least_similar_layers(means[0], means[1]))
    survivors = np.zeros(scores.total.shape, dtype=bool)
    for candidate in selection.survivors:
        survivors[candidate.place] = True
    ahead = scores.total[survivors] > scores.total[selection.place]
    n_positions, n_layers = scores.total.shape
    return {
        "layers": list(scores.layers),
        "best": scores.best(),
        "best_of_survivors": scores.best(survivors),
        "rank_of_selected": int(ahead.sum()),
        "candidates": [
            {
                "position": position,
                "layer": layer,
                "comply": float(scores.comply[position, layer]),
                "refuse": float(scores.refuse[position, layer]),
            }
            for position in range(-n_positions, 0)
            for layer in range(n_layers)
        ],
    }


def answer_kl_opinion(
    candidates: Candidates, scores_key: str, places: Sequence[Place], n_tokens: int, runner: Runner
) -> dict[Place, Float[np.ndarray, " prompt"]]:
    """KL under ablation over the first tokens of the baseline's own answers, per candidate and harmless prompt.

    What is kept or in the journal is not computed again. ``scores_key`` says what the candidates depend on.
    """
    made_from = [scores_key, n_tokens, candidates.chat.stop_ids, ANSWER_KL_VERSION]
    journal, results = runner.journal("answer-kl", digest(made_from)), runner.results
    key = f"answer-kl-{journal.folder.name}"
    known: dict[Place, np.ndarray] = {}
    for arrays, _ in results.found(key):
        known |= {(int(p), int(la)): row for (p, la), row in zip(arrays["places"], arrays["kl"], strict=True)}
    known |= _of_records(journal)
    pending = [place for place in places if place not in known]
    if pending:
        if is_main_process():
            results.find_place()
        log.info(f"select: KL over {n_tokens} answer tokens of {len(pending)} candidates")
        _predict(candidates, pending, n_tokens, runner, journal)
        known |= _of_records(journal)

    def keep(_: list[Record]) -> None:
        arrays = {"places": np.array(list(known), dtype=np.int64), "kl": np.stack(list(known.values()))}
        results.save(key, arrays, {"n_tokens": n_tokens, "harmless": digest(candidates.harmless.hashes)})

    journal.drain(keep)
    return {place: known[place] for place in places}


def _of_records(records: Iterable[Record]) -> dict[Place, Float[np.ndarray, " prompt"]]:
    return {tuple(record["place"]): np.array(record["kl"]) for record in records}


def _predict(candidates: Candidates, places: Sequence[Place], n_tokens: int, runner: Runner, journal: Journal) -> None:
    from refusal_lightning.modules.answer_kl import AnswerKLModule, AnswerKLResult

    def records(result: AnswerKLResult) -> Iterable[dict[str, Any]]:
        yield {"place": result.place, "kl": result.kl}

    directions, prompts = torch.from_numpy(candidates.directions), candidates.harmless.token_ids
    module = AnswerKLModule(candidates.chat, directions, prompts, n_tokens, candidates.batch_size)
    counts = {"prompts": len(prompts)}
    loop = PredictLoop(module, lambda: list(places), name="answer_kl", counts=lambda _: counts)
    run_journaled(runner.trainer, loop, journal, records)
