"""A run's folder: where each artifact is, and run.json, the record of how it came about."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from refusal_lightning.errors import UserError
from refusal_lightning.files import writable_folder, write_bytes
from refusal_lightning.stages.files import write_json
from refusal_lightning.stages.versions import package_versions


class RunFolder:
    """``runs/<model_alias>/``, with the names that existing notebooks read."""

    def __init__(self, root: str | Path, alias: str) -> None:
        self.path = Path(root) / alias

    def prepare(self) -> None:
        """Make the folder. Raises UserError where it cannot be written."""
        writable_folder(self.path, "runs.root")

    @property
    def mean_diffs(self) -> Path:
        return self.path / "generate_directions" / "mean_diffs.pt"

    @property
    def evaluations(self) -> Path:
        return self.path / "select_direction" / "direction_evaluations.json"

    @property
    def filtered(self) -> Path:
        return self.path / "select_direction" / "direction_evaluations_filtered.json"

    @property
    def filter_report(self) -> Path:
        return self.path / "select_direction" / "filter_report.txt"

    @property
    def uncertainty(self) -> Path:
        return self.path / "select_direction" / "uncertainty.json"

    @property
    def cosmic(self) -> Path:
        return self.path / "select_direction" / "cosmic.json"

    @property
    def answer_kl(self) -> Path:
        return self.path / "select_direction" / "answer_kl.json"

    @property
    def direction(self) -> Path:
        return self.path / "direction.pt"

    @property
    def direction_metadata(self) -> Path:
        return self.path / "direction_metadata.json"

    def completions(self, dataset: str, intervention: str) -> Path:
        return self.path / "completions" / f"{dataset}_{intervention}_completions.json"

    def completion_evaluations(self, dataset: str, intervention: str) -> Path:
        return self.path / "completions" / f"{dataset}_{intervention}_evaluations.json"

    def comparisons(self, dataset: str) -> Path:
        return self.path / "completions" / f"{dataset}_comparisons.json"

    def loss_eval(self, intervention: str) -> Path:
        return self.path / "loss_evals" / f"{intervention}_loss_eval.json"

    def analysis(self, name: str, suffix: str) -> Path:
        return self.path / "analysis" / f"{name}.{suffix}"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def record(self) -> Path:
        return self.path / "run.json"

    def journal(self, kind: str, key: str) -> Path:
        """Folder of a journal of unfinished work; the key says what its results depend on."""
        return self.path / ".journal" / f"{kind}-{key}"

    def read_record(self) -> dict[str, Any]:
        """run.json as it is; empty when there is none."""
        try:
            record = json.loads(self.record.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return record if isinstance(record, dict) else {}

    def record_stage(self, stage: str, entry: Mapping[str, Any], seconds: float) -> None:
        """Put a stage's entry into run.json, beside the other stages'; timings apart, since no two are the same."""
        record = self.read_record()
        record[stage] = dict(entry)
        record.setdefault("timings", {})[f"{stage}_seconds"] = round(seconds, 3)
        record["versions"] = package_versions()
        write_json(self.record, record)

    def load_direction(self) -> tuple[torch.Tensor, int, int]:
        """The selected direction (float64 ``[d_model]``), its position and layer. Raises UserError."""
        try:
            direction = torch.load(self.direction, weights_only=True)
            chosen = json.loads(self.direction_metadata.read_text(encoding="utf-8"))
            position, layer = int(chosen["pos"]), int(chosen["layer"])
            candidates = torch.load(self.mean_diffs, weights_only=True)
            consistent = torch.equal(direction, candidates[position, layer])
        except FileNotFoundError:
            raise UserError(f"{self.path} holds no selected direction; run `select` first") from None
        except Exception as error:
            raise UserError(f"the selected direction in {self.path} cannot be read; run `select` again") from error
        if not consistent:
            raise UserError(f"{self.direction} is not the candidate that {self.direction_metadata} names; run `select`")
        return direction, position, layer

    def require_direction_of(self, identity: dict[str, Any]) -> None:
        """Raise UserError where the direction was selected for a model of another identity."""
        if self.read_record().get("select", {}).get("model") != identity:
            raise UserError(
                f"the direction in {self.path} was selected for another model or template; run `select` first"
            )


def write_tensor(path: Path, tensor: torch.Tensor) -> None:
    """Save a tensor of its own storage, the same bytes for the same values whatever the file's name."""
    buffer = io.BytesIO()
    torch.save(tensor.detach().clone(), buffer)
    write_bytes(path, buffer.getvalue())
