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
from refusal_lightning.directions.staging import STAGES, Place, ScoreKind, next_scores
from refusal_lightning.models import ChatModel
from refusal_lightning.stages.console import say
from refusal_lightning.stages.prompts import PromptSet
from refusal_lightning.store import ActivationStore
from refusal_lightning.writers.journal import Journal


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
        n_prompts: dict[ScoreKind, int],
    ) -> None:
        self._store, self._key, self.journal = store, key, journal
        self.values: dict[ScoreKind, np.ndarray] = {kind: np.full((*shape, n_prompts[kind]), np.nan) for kind in STAGES}
        self.done: dict[ScoreKind, np.ndarray] = {kind: np.zeros(shape, dtype=bool) for kind in STAGES}
        stored = store.load_result(key)
        if stored is not None:
            arrays, _ = stored
            for kind in STAGES:
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
        arrays: dict[str, np.ndarray] = {kind: self.values[kind] for kind in STAGES}
        arrays.update({f"{kind}_done": self.done[kind] for kind in STAGES})
        self._store.save_result(self._key, arrays, depends_on)
        self.journal.remove()

    def means(self) -> CandidateScores:
        """Each candidate's scores: means over the prompts; NaN where not computed."""
        mean = {kind: self.values[kind].mean(axis=-1) for kind in STAGES}
        return CandidateScores(refusal_score=mean["bypass"], steering_score=mean["induce"], kl_div_score=mean["kl"])


def next_work(
    mode: str, table: ScoreTable, thresholds: Thresholds, norms: Float[np.ndarray, "position layer"]
) -> tuple[ScoreKind, list[Place]] | None:
    """The next kind of score to compute and its candidates; None when nothing is left.

    Exhaustive: every score of every candidate. Staged: only what the choice may depend on.
    """
    if mode == "staged":
        return next_scores(table.means(), table.done, thresholds, norms)
    for kind in STAGES:
        lacking = np.argwhere(~table.done[kind])
        if len(lacking):
            return kind, [(int(row) - len(norms), int(layer)) for row, layer in lacking]
    return None


def compute_scores(
    table: ScoreTable,
    *,
    chat: ChatModel,
    trainer: TrainerConfig,
    directions: Float[np.ndarray, "position layer d_model"],
    harmful: PromptSet,
    harmless: PromptSet,
    harmless_logits: Float[np.ndarray, "prompt vocab"],
    upcoming: Callable[[], tuple[ScoreKind, list[Place]] | None],
    batch_size: int,
    save: Callable[[], None],
) -> int:
    """Compute what is upcoming, kind by kind, until nothing is. Returns how many scores were computed.

    The model is loaded only if there is something to compute.
    """
    computed = 0
    while (work := upcoming()) is not None:
        kind, places = work
        say(f"select: {kind} scores of {len(places)} candidates")
        _predict(table, kind, places, chat, trainer, directions, harmful, harmless, harmless_logits, batch_size)
        table.read_journal()
        computed += len(places)
    if computed or any(True for _ in table.journal):
        save()
    return computed


def _predict(
    table: ScoreTable,
    kind: ScoreKind,
    places: Sequence[Place],
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
