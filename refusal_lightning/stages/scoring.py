"""The candidates' intervention scores: computed once, per prompt, and kept in the store under what they depend on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from refusal_lightning.config import TrainerConfig
from refusal_lightning.directions.candidates import CandidateScores
from refusal_lightning.directions.filters import Thresholds
from refusal_lightning.models import ChatModel
from refusal_lightning.stages.console import say
from refusal_lightning.stages.prompts import PromptSet
from refusal_lightning.store import ActivationStore
from refusal_lightning.writers.journal import Journal

KINDS = ("induce", "kl", "bypass")
"""Scores in the staged order: the first needs the cheapest passes, the last is needed for the fewest candidates."""

Candidate = tuple[int, int]


class ScoreTable:
    """Scores of candidates for every prompt: ``values[kind]`` is ``[position, layer, prompt]``, float64.

    ``done[kind]`` marks what has been computed (a computed score may be NaN). Lives in the store as one result;
    a journal holds what an interrupted run had computed beyond that.
    """

    def __init__(
        self,
        store: ActivationStore,
        key: str,
        journal: Journal,
        shape: tuple[int, int],
        n_prompts: dict[str, int],
    ) -> None:
        self._store, self._key, self.journal = store, key, journal
        self.values = {kind: np.full((*shape, n_prompts[kind]), np.nan) for kind in KINDS}
        self.done = {kind: np.zeros(shape, dtype=bool) for kind in KINDS}
        stored = store.load_result(key)
        if stored is not None:
            arrays, _ = stored
            for kind in KINDS:
                self.values[kind], self.done[kind] = arrays[kind], arrays[f"{kind}_done"].astype(bool)
        self.read_journal()

    def read_journal(self) -> None:
        """Take in what the journal holds."""
        for record in self.journal:
            place = record["position"], record["layer"]
            self.values[record["kind"]][place] = record["scores"]
            self.done[record["kind"]][place] = True

    def save(self, depends_on: dict[str, Any]) -> None:
        """Keep everything in the store and drop the journal."""
        arrays: dict[str, np.ndarray] = dict(self.values)
        arrays.update({f"{kind}_done": self.done[kind] for kind in KINDS})
        self._store.save_result(self._key, arrays, depends_on)
        self.journal.remove()

    def means(self) -> CandidateScores:
        """Each candidate's scores: means over the prompts; NaN where not computed."""
        mean = {kind: self.values[kind].mean(axis=-1) for kind in KINDS}
        return CandidateScores(refusal_score=mean["bypass"], steering_score=mean["induce"], kl_div_score=mean["kl"])


def needed(
    kind: str,
    mode: str,
    scores: CandidateScores,
    thresholds: Thresholds,
    norms: Float[np.ndarray, "position layer"],
) -> list[Candidate]:
    """The candidates whose score of a kind the choice may depend on, in order of iteration.

    Staged: a zero direction or a pruned layer is never scored, KL only where the candidate induces refusal, bypass
    only where it passes both. Each rule drops a candidate by itself, so the order changes no choice.
    """
    n_positions, n_layers = scores.shape
    everywhere = [(position, layer) for position in range(-n_positions, 0) for layer in range(n_layers)]
    if mode == "exhaustive":
        return everywhere
    first_pruned = thresholds.first_pruned_layer(n_layers)

    def may_pass(place: Candidate) -> bool:
        if norms[place] == 0 or place[1] >= first_pruned:
            return False
        if kind != "induce" and not _stays(scores.steering_score[place], at_least=thresholds.induce):
            return False
        return kind != "bypass" or _stays(-scores.kl_div_score[place], at_least=_negative(thresholds.kl))

    return [place for place in everywhere if may_pass(place)]


def _stays(score: float, at_least: float | None) -> bool:
    return not np.isnan(score) and (at_least is None or score >= at_least)


def _negative(value: float | None) -> float | None:
    return None if value is None else -value


def compute_scores(
    table: ScoreTable,
    *,
    chat: ChatModel,
    trainer: TrainerConfig,
    directions: Float[np.ndarray, "position layer d_model"],
    harmful: PromptSet,
    harmless: PromptSet,
    harmless_logits: Float[np.ndarray, "prompt vocab"],
    wanted: Callable[[str], list[Candidate]],
    batch_size: int,
    save: Callable[[], None],
) -> int:
    """Compute the scores that are wanted and lacking, kind by kind. Returns how many were computed.

    The model is loaded only if there is something to compute.
    """
    computed = 0
    for kind in KINDS:
        lacking = [place for place in wanted(kind) if not table.done[kind][place]]
        if not lacking:
            continue
        say(f"select: {kind} scores of {len(lacking)} candidates")
        _predict(table, kind, lacking, chat, trainer, directions, harmful, harmless, harmless_logits, batch_size)
        table.read_journal()
        computed += len(lacking)
    if computed or any(True for _ in table.journal):
        save()
    return computed


def _predict(
    table: ScoreTable,
    kind: Any,
    places: Sequence[Candidate],
    chat: ChatModel,
    trainer: TrainerConfig,
    directions: Float[np.ndarray, "position layer d_model"],
    harmful: PromptSet,
    harmless: PromptSet,
    harmless_logits: Float[np.ndarray, "prompt vocab"],
    batch_size: int,
) -> None:
    from refusal_lightning.data.work import WorkDataModule
    from refusal_lightning.modules.scores import ScoreModule, ScoreResult, ScoreTask
    from refusal_lightning.stages.trainer import run_predict
    from refusal_lightning.writers import JournalWriter

    def records(result: ScoreResult) -> Iterable[dict[str, Any]]:
        task = result.task
        yield {"kind": task.kind, "position": task.position, "layer": task.layer, "scores": result.scores}

    module = ScoreModule(
        chat,
        torch.from_numpy(directions),
        harmful.token_ids,
        harmless.token_ids,
        torch.from_numpy(harmless_logits),
        kind,
        batch_size,
    )
    work = WorkDataModule(pending=lambda: list(places), expand=lambda place: [ScoreTask(kind, *place)])
    run_predict(trainer, module, work, [JournalWriter(table.journal, records)])
