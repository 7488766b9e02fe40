"""The candidates' intervention scores: computed once, per prompt, and kept under what they depend on."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from refusal_lightning.directions.selection.bounds import kl_lower_bounds, refusal_score_bound
from refusal_lightning.directions.selection.candidates import ScoreKind
from refusal_lightning.directions.selection.schedule import STAGES, Work
from refusal_lightning.directions.selection.score_table import Bounds, ScoreTable
from refusal_lightning.distributed.journal import Record
from refusal_lightning.distributed.predict import PredictLoop, run_journaled
from refusal_lightning.distributed.process_group import barrier
from refusal_lightning.inputs.prompts import PromptSet
from refusal_lightning.inputs.stored_logits import StoredLogits
from refusal_lightning.io.console import is_main_process
from refusal_lightning.io.hashing import digest, sha256_of
from refusal_lightning.io.versions import package_versions
from refusal_lightning.models import ChatModel
from refusal_lightning.stages.select.runner import Runner

log = logging.getLogger(__name__)

SCORE_VERSION = 3
"""Raised when the definition of a score changes: stored scores of another version are not used. 3: what blocks return
when they are stepped over, position ids, and where a shared beginning is exact."""


@dataclass(frozen=True, eq=False)
class Candidates:
    """One estimator's directions, and what their scores are measured with."""

    chat: ChatModel
    directions: Float[np.ndarray, "position layer d_model"]
    harmful: PromptSet
    """Validation prompts of the bypass scores."""
    harmless: PromptSet
    """Validation prompts of the induce and KL scores."""
    batch_size: int
    """Rows (prompts x candidates) per forward pass."""

    @property
    def norms(self) -> Float[np.ndarray, "position layer"]:
        """Of the directions."""
        return np.asarray(np.linalg.norm(self.directions, axis=-1))

    def depends_on(self) -> dict[str, Any]:
        """What the scores depend on, beside the model."""
        return {
            "score_version": SCORE_VERSION,
            "directions_sha256": sha256_of(self.directions.tobytes()),
            "harmful": self.harmful.hashes,
            "harmless": self.harmless.hashes,
            "refusal_tokens": self.chat.refusal_ids,
        }


def score_bounds(n_harmful: int, harmless_logits: StoredLogits) -> dict[ScoreKind, Bounds]:
    """The least and the largest value of each kind of score for each prompt (see ``directions.bounds``)."""
    most = refusal_score_bound()
    n_harmless = len(harmless_logits)
    lowest_kl = harmless_logits.each(kl_lower_bounds)
    return {
        "bypass": (np.full(n_harmful, -most), np.full(n_harmful, most)),
        "induce": (np.full(n_harmless, -most), np.full(n_harmless, most)),
        "kl": (lowest_kl, np.full(n_harmless, np.inf)),
    }


class KeptScores:
    """A table of scores in its keeping: one result, and a journal of what an interrupted run computed beyond it."""

    def __init__(self, candidates: Candidates, bounds: dict[ScoreKind, Bounds], runner: Runner) -> None:
        """Reads what is there. ``bounds`` as of ``score_bounds``."""
        n_positions, n_layers, _ = candidates.directions.shape
        self._depends_on = candidates.depends_on()
        self.key = f"scores-{digest([candidates.chat.identity, self._depends_on])}"
        self.table = ScoreTable.empty((n_positions, n_layers), bounds)
        self.results, self.journal = runner.results, runner.journal("scores", self.key)
        self.made_with: list[dict[str, str]] = []
        """Package versions of the processes that computed what is kept."""
        for arrays, attrs in self.results.found(self.key):
            self.made_with += [made for made in attrs.get("made_with", []) if made not in self.made_with]
            for kind in STAGES:
                there = arrays[f"{kind}_seen"].astype(bool)
                np.copyto(self.table.values[kind], arrays[kind], where=there)
                self.table.seen[kind][there] = True
        self.add(self.journal)

    def add(self, records: Iterable[Record]) -> None:
        """Take in what a journal holds."""
        for record in records:
            for place, scores, prompts in zip(record["places"], record["scores"], record["prompts"], strict=True):
                self.table.enter(record["kind"], tuple(place), prompts, scores)

    def drain(self) -> None:
        """Keep what the journal holds as the result. Every process must call this."""
        self.journal.drain(lambda _: self._save())

    def _save(self) -> None:
        arrays: dict[str, np.ndarray] = {kind: self.table.values[kind] for kind in STAGES}
        arrays.update({f"{kind}_seen": self.table.seen[kind] for kind in STAGES})
        here = package_versions()
        made_with = [*self.made_with, *([] if here in self.made_with else [here])]
        self.results.save(self.key, arrays, {**self._depends_on, "made_with": made_with})


@dataclass
class ModelScorer:
    """Computes scores by forward passes of the model, which is loaded when there is something to compute."""

    candidates: Candidates
    harmless_logits: StoredLogits
    """The baseline's, of the KL score."""
    kept: KeptScores
    runner: Runner
    n_computed: int = 0
    """How many candidates' scores were computed so far."""

    def __call__(self, work: Work) -> None:
        """Compute a piece of work, on all processes, and enter it in the table of each."""
        from refusal_lightning.modules.scores import ScoredPrompts, ScoreModule  # Lightning takes seconds to import

        if is_main_process():
            self.runner.results.find_place()
        log.info(f"select: {work.kind} scores of {work.n_candidates} candidates")
        given = self.candidates
        module = ScoreModule(
            given.chat,
            torch.from_numpy(given.directions),
            ScoredPrompts(
                (given.harmful if work.kind == "bypass" else given.harmless).token_ids,
                self.kept.table.bounds[work.kind],
                self.harmless_logits if work.kind == "kl" else None,
            ),
            work.kind,
            given.batch_size,
            work.proven_out,
        )
        loop = PredictLoop(
            module, lambda: list(work.tasks), name="scores", counts=lambda made: {"rows": int(made.seen.sum())}
        )
        self.kept.add(run_journaled(self.runner.trainer, loop, self.kept.journal, _records))
        barrier()  # everybody sees the same scores before the next are chosen
        self.n_computed += work.n_candidates


def _records(result: Any) -> Iterable[dict[str, Any]]:
    """One line for all of a task's candidates: a kill never leaves a part of a task."""
    prompts = [np.flatnonzero(row) for row in result.seen]
    yield {
        "kind": result.task.kind,
        "places": result.task.places,
        "prompts": [index.tolist() for index in prompts],
        "scores": [row[index].tolist() for row, index in zip(result.scores, prompts, strict=True)],
    }
