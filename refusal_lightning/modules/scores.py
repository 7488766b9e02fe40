"""Intervention scores of candidates: bypass (ablated, harmful), induce (added, harmless), KL (ablated, harmless)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from refusal_lightning.directions.metrics.kl import kl_scores
from refusal_lightning.directions.metrics.refusal_score import refusal_scores
from refusal_lightning.directions.selection.bounds import PartialMean
from refusal_lightning.directions.selection.candidates import ScoreKind
from refusal_lightning.directions.selection.schedule import ProvenOut, ScoreTask
from refusal_lightning.inference.host_memory import room_to_keep
from refusal_lightning.inference.prefix_cache import Bucket, PromptSetTokens, last_logits, prefix_pass
from refusal_lightning.inference.shortcuts import exact_shortcuts
from refusal_lightning.interventions import intervene, record_activations, row_ablation, row_addition, skip_blocks
from refusal_lightning.models import ChatModel
from refusal_lightning.modules.base import ModelModule


@dataclass
class ScoreResult:
    """Each candidate's score for every prompt (float64, in the order given), NaN where it was not computed."""

    task: ScoreTask
    scores: Float[np.ndarray, "place prompt"]
    seen: np.ndarray
    """[place, prompt] bool: which were computed; a candidate is dropped once its sum proves it out."""


class RowsOfLogits(Protocol):
    """``logits[[3, 1]]`` is ``[prompt, vocab]``: a tensor, or something that reads the rows."""

    def __getitem__(self, prompts: list[int], /) -> Any: ...


@dataclass(frozen=True)
class ScoredPrompts:
    """The validation prompts that one kind of score is of, in order."""

    token_ids: Sequence[Sequence[int]]
    bounds: tuple[np.ndarray, np.ndarray]
    """What each prompt's score lies between."""
    baseline_logits: RowsOfLogits | None = None
    """The baseline's next-token logits, for KL: a tensor, or rows that are read when they are asked for."""


@dataclass(frozen=True)
class CandidateBatch:
    """A task's candidates as their passes need them."""

    task: ScoreTask
    directions: Float[Tensor, "candidate d_model"]
    past: list[tuple[Tensor, Tensor]]
    """Keys and values of the shared beginning, one row per candidate (``prefix_pass``)."""


@dataclass(frozen=True)
class Part:
    """What shares a pass: some of the candidates, and the prompts of one bucket."""

    candidates: list[int]
    number: int
    """Which bucket it is."""
    bucket: Bucket


class ScoreModule(ModelModule):
    """``predict_step`` runs interventions of a few candidates over all validation prompts of a kind.

    What a pass does not do twice, or at all: the template's beginning is run once per candidate and not once per
    prompt; rows are candidates x prompts of similar length, each with its own direction; below the layer where a
    vector is added nothing changes, so induce scores start there, from the baseline's ``resid_pre``; logits are made
    at the last position only. The first two are done where they are exact (``shortcuts``).
    """

    def __init__(
        self,
        model: ChatModel,
        directions: Float[Tensor, "position layer d_model"],
        prompts: ScoredPrompts,
        kind: ScoreKind,
        batch_size: int,
        proven_out: ProvenOut | None = None,
    ) -> None:
        """``batch_size`` is the number of rows of a pass. With ``proven_out`` a candidate's remaining prompts are left
        out once it says so."""
        super().__init__(model)
        self.directions, self.kind, self.batch_size = directions, kind, batch_size
        self._prompts, self._proven_out = prompts, proven_out
        self._resid_pre: list[dict[int, Tensor]] = []
        self._prefix_resid_pre: dict[int, Tensor] = {}
        self._baseline_past: list[tuple[Tensor, Tensor]] = []
        self._again: tuple[int, int, Tensor] | None = None

    def on_predict_start(self) -> None:
        found = exact_shortcuts(self.engine, self._prompts.token_ids, self.input_device)
        self._skips = found.skips
        self._tokens = PromptSetTokens(self._prompts.token_ids, self.batch_size, found.shares, self.input_device)
        if self.kind == "induce" and self._skips:
            with torch.inference_mode():
                self._run_baseline()

    def _run_baseline(self) -> None:
        """Keep the baseline's ``resid_pre`` of every layer, of the shared beginning and of what follows.

        Of what follows, only as far as there is room: the rest is computed again, a layer at a time.
        """
        layers = range(self.model.n_layers)

        def beginning() -> None:
            self._baseline_past = prefix_pass(self._hf, self._tokens.prefix, 1)

        self._prefix_resid_pre = self._captured(beginning, layers)
        processes = 1 if self._trainer is None else self._trainer.num_devices  # none: a check, outside of any loop
        room = room_to_keep(self.input_device, processes)
        token = len(layers) * self.model.d_model * self._hf.get_input_embeddings().weight.itemsize
        for bucket in self._tokens.buckets:
            room -= bucket.ids.numel() * token
            self._resid_pre.append(self._baseline_of(bucket, layers) if room >= 0 else {})

    def _captured(self, run: Callable[[], object], layers: Sequence[int]) -> dict[int, Tensor]:
        with record_activations(self.engine, ["resid_pre"], layers, lambda x: x) as captured:
            run()
        return {layer: captured["resid_pre", layer] for layer in layers if ("resid_pre", layer) in captured}

    def _baseline_of(self, bucket: Bucket, layers: Sequence[int]) -> dict[int, Tensor]:
        rows = torch.zeros(len(bucket.ids), dtype=torch.long, device=self.input_device)
        return self._captured(lambda: last_logits(self._hf, bucket.ids, bucket.mask, self._baseline_past, rows), layers)

    def _start(self, number: int, layer: int) -> Float[Tensor, "prompt token d_model"]:
        """What the baseline has at a layer for a bucket: kept, or made for all candidates of the layer that follow."""
        kept = self._resid_pre[number]
        if not kept and (self._again is None or self._again[:2] != (number, layer)):
            made = self._baseline_of(self._tokens.buckets[number], [layer])
            self._again = (number, layer, made[layer])
        return kept[layer] if kept else self._again[2]  # type: ignore[index]

    def on_predict_end(self) -> None:
        self._resid_pre, self._prefix_resid_pre, self._baseline_past, self._again = [], {}, [], None

    def predict_step(self, task: ScoreTask, batch_idx: int = 0) -> ScoreResult:
        directions = torch.stack([self.directions[place] for place in task.places]).to(self.input_device)
        means = [PartialMean(*self._prompts.bounds) for _ in task.places]
        scores = np.full((len(task.places), self._tokens.n_prompts), np.nan)
        seen = np.zeros(scores.shape, dtype=bool)
        alive = list(range(len(task.places)))
        candidates = CandidateBatch(task, directions, self._prefix(task, directions))
        for number, bucket in enumerate(self._tokens.buckets):
            for part in self._parts(alive, number, bucket):
                values = self._scores(candidates, part)
                for candidate, row in zip(part.candidates, values, strict=True):
                    scores[candidate, bucket.prompts], seen[candidate, bucket.prompts] = row, True
                    means[candidate].add(bucket.prompts, row)
            if self._proven_out is not None:
                alive = [i for i in alive if not self._proven_out(means[i].low, means[i].high)]
        return ScoreResult(task, scores, seen)

    def _parts(self, candidates: list[int], number: int, bucket: Bucket) -> Iterator[Part]:
        """The candidates that share a pass over a bucket."""
        size = max(1, self.batch_size // len(bucket.prompts))
        return (Part(candidates[i : i + size], number, bucket) for i in range(0, len(candidates), size))

    def _prefix(self, task: ScoreTask, directions: Tensor) -> list[tuple[Tensor, Tensor]]:
        """The shared beginning under each candidate's intervention: one row per candidate."""
        rows = len(directions)
        if task.kind != "induce":
            with intervene(self.engine, row_ablation(directions)):
                return prefix_pass(self._hf, self._tokens.prefix, rows)
        layer = task.places[0][1]
        start = self._prefix_resid_pre[layer].expand(rows, -1, -1) if self._prefix_resid_pre else None
        with self._from_layer(layer, start), intervene(self.engine, row_addition(directions, layer)):
            return prefix_pass(self._hf, self._tokens.prefix, rows)

    def _from_layer(self, layer: int, start: Float[Tensor, "row token d_model"] | None) -> AbstractContextManager[None]:
        """Passes enter at the layer, where there is something to enter with."""
        return nullcontext() if start is None else skip_blocks(self.engine, layer, start)

    def _scores(self, candidates: CandidateBatch, part: Part) -> Float[np.ndarray, "candidate prompt"]:
        prompts, n_candidates = part.bucket.prompts, len(part.candidates)
        logits = self.pass_logits(candidates, part)
        if candidates.task.kind == "kl":
            assert self._prompts.baseline_logits is not None
            baseline = self._prompts.baseline_logits[prompts].to(logits.device).repeat(n_candidates, 1)
            values = kl_scores(baseline, logits)
        else:
            values = refusal_scores(logits, self.model.refusal_ids)
        return values.reshape(n_candidates, len(prompts)).cpu().numpy()

    def pass_logits(self, candidates: CandidateBatch, part: Part) -> Float[Tensor, "row vocab"]:
        """One pass over a bucket: logits of candidates x prompts, the candidate outermost."""
        bucket, n_candidates = part.bucket, len(part.candidates)
        rows = torch.tensor(part.candidates, device=self.input_device).repeat_interleave(len(bucket.prompts))
        ids, mask = bucket.ids.repeat(n_candidates, 1), bucket.mask.repeat(n_candidates, 1)
        directions = candidates.directions[rows]
        if candidates.task.kind != "induce":
            with intervene(self.engine, row_ablation(directions)):
                return last_logits(self._hf, ids, mask, candidates.past, rows)
        layer = candidates.task.places[0][1]
        start = self._start(part.number, layer).repeat(n_candidates, 1, 1) if self._skips else None
        with self._from_layer(layer, start), intervene(self.engine, row_addition(directions, layer)):
            return last_logits(self._hf, ids, mask, candidates.past, rows)

    @property
    def _hf(self) -> Any:
        """The Hugging Face model inside the engine: hooks act in it, and it takes a cache."""
        return self.engine.model
