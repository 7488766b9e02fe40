"""``rl.open_run``: a run's folder as objects."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from refusal_lightning.data.labels import Labels
from refusal_lightning.directions.direction import Direction
from refusal_lightning.directions.selection.candidates import AUTHORS_KEYS, CandidateScores, Place, from_rows
from refusal_lightning.directions.selection.filters import Thresholds
from refusal_lightning.errors import UserError
from refusal_lightning.io.notebook import frame
from refusal_lightning.report.figures.analyses import AnalysisTable
from refusal_lightning.report.figures.registry import FIGURES
from refusal_lightning.report.figures.scores import SCORE_FIGURES, ScoredCandidates
from refusal_lightning.report.summary import Summary, read_summary
from refusal_lightning.report.tables import (
    candidates_frame,
    completions_frame,
    differences_frame,
    losses_frame,
    rates_frame,
    scores_dataset,
)
from refusal_lightning.runs.folder import RunFolder
from refusal_lightning.store import ActivationStore

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame
    from xarray import Dataset


class Run:
    """What the stages left in a run's folder, read when it is asked for (``rl.open_run`` makes one).

    What a stage would have made and has not is a UserError that names the stage.
    """

    def __init__(self, path: str | Path) -> None:
        """``path`` is the run's folder. Raises UserError where there is no run."""
        self.path = Path(path)
        self._folder = RunFolder(self.path.parent, self.path.name)
        if not self._folder.record.is_file():
            raise UserError(f"{self.path} holds no run: there is no {self._folder.record.name} in it")

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}: {', '.join(name for name in _STAGES if name in self.record)})"

    @cached_property
    def record(self) -> dict[str, Any]:
        """run.json: of each stage its configuration, model, prompts and versions."""
        return self._folder.read_record()

    @cached_property
    def direction(self) -> Direction:
        """The selected direction."""
        chosen, entry = self._folder.load_direction(), self._stage("select")
        selected, model = entry["selected"], entry["config"]["model"]
        return Direction(
            vector=chosen.vector,
            layer=chosen.layer,
            position=chosen.position,
            n_layers=self._directions.shape[1],
            model_name=model["name"],
            identity=entry["model"],
            scores={kind: selected[key] for kind, key in AUTHORS_KEYS.items()},
            made_from=self._made_from(entry),
        )

    @cached_property
    def store(self) -> ActivationStore:
        """The store that the direction was made from."""
        return ActivationStore.open(self._stage("select")["store"])

    @property
    def scores(self) -> Dataset:
        """``bypass``, ``induce`` and ``kl`` of every candidate, ``[position, layer]``; see ``SelectionResult``."""
        return scores_dataset(self._scored, self._thresholds)

    @property
    def candidates(self) -> DataFrame:
        """A row for each candidate; see ``SelectionResult.candidates``."""
        norms = np.linalg.norm(self._directions, axis=-1)
        return candidates_frame(self._scored, self._thresholds, norms, self._ruled_out)

    @property
    def rates(self) -> DataFrame:
        """A row for each set, intervention and judge: how many answers refuse (or show what it measures)."""
        return rates_frame(self._evaluated.rates)

    @property
    def differences(self) -> DataFrame:
        """A row for each set, intervention and judge: how the share of refusals differs from the baseline's."""
        return differences_frame(self._evaluated.differences)

    @property
    def losses(self) -> DataFrame:
        """A row for each intervention and set of texts: cross-entropy (nats per token), perplexity, tokens."""
        return losses_frame(self._evaluated.losses)

    def completions(self, dataset: str, intervention: str) -> DataFrame:
        """A row for each prompt of a ``dataset``: prompt, response and verdicts under an ``intervention``.

        Raises UserError for what was not evaluated.
        """
        entry = self._stage("evaluate")
        there = {"set": [*entry["harmful"], *entry["harmless"]], "intervention": entry["interventions"]}
        for what, name in (("set", dataset), ("intervention", intervention)):
            if name not in there[what]:
                raise UserError(f"{self.path} has no {what} {name!r}; it has {', '.join(there[what])}")
        return completions_frame(self._json(self._folder.completion_evaluations(dataset, intervention), "evaluate"))

    def analysis(self, name: str) -> DataFrame:
        """The table of an analysis by ``name``, such as ``"separability"``. Raises UserError where it was not made."""
        rows = self._analysis(name)["rows"]
        return frame(rows, list(rows[0]) if rows else [])

    def figure(self, name: str) -> Figure:
        """A matplotlib figure by ``name``: ``"bypass"``, ``"induce"``, ``"kl"``, or that of an analysis.

        Raises UserError for one that there is not.
        """
        if name in SCORE_FIGURES:
            return SCORE_FIGURES[name](self._scored)
        if name not in FIGURES or FIGURES[name].of is not AnalysisTable:
            known = [*SCORE_FIGURES, *(other for other, spec in FIGURES.items() if spec.of is AnalysisTable)]
            raise UserError(f"there is no figure {name!r}; there are {', '.join(known)}")
        made, arrays = self._analysis(name), {}
        if (path := self._folder.analysis(name, "npz")).is_file():
            with np.load(path, allow_pickle=False) as file:
                arrays = dict(file)
        chosen = made["made_from"]["selected"]
        place = None if chosen is None else (chosen["pos"], chosen["layer"])
        labels = Labels.of_record(self.record)
        return FIGURES[name].draw(AnalysisTable(made["rows"], self._position_tokens, place, arrays, labels))

    def _stage(self, name: str) -> dict[str, Any]:
        if name not in self.record:
            raise UserError(f"{self.path} has no results of `{name}`; run it first")
        entry: dict[str, Any] = self.record[name]
        return entry

    def _json(self, path: Path, stage: str) -> Any:
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UserError(f"{path} is not there; run `{stage}` first") from None
        except ValueError as error:
            raise UserError(f"{path} cannot be read ({error}); run `{stage}` again") from error

    def _analysis(self, name: str) -> dict[str, Any]:
        made = dict(self._json(self._folder.analysis(name, "json"), "analyze"))
        numbers = ({key: math.nan if value is None else value for key, value in row.items()} for row in made["rows"])
        return {**made, "rows": list(numbers)}  # JSON has no NaN

    def _made_from(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        """As ``SelectionResult.direction`` has it."""
        config = entry["config"]
        return {
            "estimator": entry["estimator"],
            "prompts": entry["prompts"],
            "refusal_tokens": [row["token"] for row in entry["refusal_tokens"]],
            "select": config["select"],
            "seed": config["data"]["seed"],
            "chosen": entry["chosen"],
            "fails": entry["fails"],
            "versions": self.record["versions"],
        }

    @cached_property
    def _evaluated(self) -> Summary:
        self._stage("evaluate")
        return read_summary(self._folder)

    @cached_property
    def _directions(self) -> np.ndarray:
        """The candidates, ``[position, layer, d_model]``."""
        try:
            found: np.ndarray = torch.load(self._folder.mean_diffs, weights_only=True).numpy()
            return found
        except FileNotFoundError:
            raise UserError(f"{self._folder.mean_diffs} is not there; run `select` first") from None
        except Exception as error:
            raise UserError(f"{self._folder.mean_diffs} cannot be read; run `select` again") from error

    @property
    def _thresholds(self) -> Thresholds:
        config = self._stage("select")["config"]["select"]
        return Thresholds(config["kl_threshold"], config["induce_threshold"], config["prune_layers"])

    @property
    def _ruled_out(self) -> dict[Place, str]:
        about = self._json(self._folder.evaluations_meta, "select")
        return {(row["position"], row["layer"]): row["reason"] for row in about["ruled_out"]}

    @cached_property
    def _scored(self) -> ScoredCandidates:
        entry = self._stage("select")
        scores: CandidateScores = from_rows(self._json(self._folder.evaluations, "select"))
        chosen = entry["selected"]
        place = None if chosen is None else (chosen["position"], chosen["layer"])
        labels = Labels.of_record(self.record)
        return ScoredCandidates(scores, self._position_tokens, entry["baseline_refusal_score"], place, labels)

    @cached_property
    def _position_tokens(self) -> list[str]:
        """Text of the token at each candidate's position, as the store has it; empty where there is no store."""
        n_positions = len(self._directions)
        try:
            known = self.store.manifest.get("position_tokens")
        except UserError:
            known = None
        return list(known[-n_positions:]) if known else [""] * n_positions


_STAGES = ("select", "evaluate", "capability", "analyze")


def open_run(path: str | Path) -> Run:
    """A run by the ``path`` of its folder, such as ``runs/qwen2.5-1.5b-instruct``; nothing in it is changed.

    Raises UserError where there is no run.
    """
    return Run(path)
