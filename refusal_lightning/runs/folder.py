"""A run's folder: where each artifact is, and run.json, the record of how it came about."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from refusal_lightning import plugins
from refusal_lightning.errors import UserError
from refusal_lightning.io.files import writable_folder, write_bytes
from refusal_lightning.io.hashing import digest, file_digest, sha256_of
from refusal_lightning.io.serialization import write_json
from refusal_lightning.io.versions import package_versions
from refusal_lightning.loggers.spec import LogPlace
from refusal_lightning.runs.lock import held, held_for_a_moment

FILES = {
    "select": (
        "direction.pt",
        "direction_metadata.json",
        "generate_directions/mean_diffs.pt",
        "select_direction/*.json",
        "select_direction/*.txt",
        "select_direction/*.png",
    ),
    "evaluate": (
        "completions/*_completions.json",
        "completions/*_evaluations.json",
        "completions/*_comparisons.json",
        "loss_evals/*_loss_eval.json",
        "report.html",
    ),
    "capability": ("capability/*.json",),
    "analyze": ("analysis/*.csv", "analysis/*.json", "analysis/*.png", "analysis/*.npz"),
}
"""The files of each stage in a run's folder, as patterns."""


class SelectedDirection(NamedTuple):
    """The direction that `select` chose, and where it is from."""

    vector: torch.Tensor
    """float64 ``[d_model]``."""
    position: int
    layer: int

    @property
    def digest(self) -> str:
        """What results under it are bound to."""
        return direction_digest(*self)


class RunFolder:
    """``runs/<model_alias>/``, with the names that existing notebooks read."""

    def __init__(self, root: str | Path, alias: str) -> None:
        self.path = Path(root) / alias
        self._check_held: Callable[[], None] = lambda: None

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
    def evaluations_meta(self) -> Path:
        return self.path / "select_direction" / "direction_evaluations.meta.json"

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

    def score_plot(self, name: str) -> Path:
        return self.path / "select_direction" / f"{name}.png"

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

    def capability(self, intervention: str) -> Path:
        return self.path / "capability" / f"{intervention}.json"

    def analysis(self, name: str, suffix: str) -> Path:
        return self.path / "analysis" / f"{name}.{suffix}"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def record(self) -> Path:
        return self.path / "run.json"

    @property
    def journals(self) -> Path:
        """Folder of what makes a killed stage go on where it was."""
        return self.path / ".journal"

    @property
    def results(self) -> Path:
        """Folder of what a run adds to the results of a store that it cannot write."""
        return self.path / ".results"

    @property
    def estimators(self) -> Path:
        """Folder of the selections by further estimators, each as a run's."""
        return self.path / "estimators"

    @property
    def stale(self) -> Path:
        """Folder of what was moved aside, by number."""
        return self.path / "stale"

    def log_place(self, stage: str) -> LogPlace:
        """Where loggers write (``trainer.logger``): a folder of no results, of which nothing is ever moved."""
        return LogPlace(self.path / "logs", self.path.name, stage)

    def journal(self, kind: str, key: str) -> Path:
        """Folder of a journal of unfinished work; the key says what its results depend on."""
        return self.journals / f"{kind}-{key}"

    @contextmanager
    def working(self, stage: str, shuts_out: Sequence[str]) -> Iterator[None]:
        """While a stage works here: a second job of it, or of a stage that it shuts out, is told so by a UserError."""
        with held(self.path, stage, shuts_out) as check:
            self._check_held = check
            try:
                yield
            finally:
                self._check_held = lambda: None

    def read_record(self) -> dict[str, Any]:
        """run.json as it is; empty when there is none. Raises UserError where it cannot be read: it is never replaced
        unread, since it says what made everything else."""
        try:
            record = json.loads(self.record.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise UserError(f"{self.record} cannot be read ({error}); {_MEND_RECORD}") from error
        if not isinstance(record, dict):
            raise UserError(f"{self.record} is no record of a run; {_MEND_RECORD}")
        return record

    @contextmanager
    def updating(self) -> Iterator[dict[str, Any]]:
        """run.json to change: read, and written again at the end, with no other process between."""
        with held_for_a_moment(self.path, "run.json"):
            record = self.read_record()
            yield record
            self._check_held()
            write_json(self.record, record)

    def record_stage(self, stage: str, entry: Mapping[str, Any], seconds: float) -> None:
        """Put a stage's entry into run.json, beside the other stages'; timings apart, since no two are the same.

        Plugins are noted in it. Files that the stage said it would write (``made_from.make_room``) are bound as they
        are now.
        """
        with self.updating() as record:
            record[stage] = {**entry, **({"plugins": used} if (used := plugins.record()) else {})}
            record.setdefault("timings", {})[f"{stage}_seconds"] = round(seconds, 3)
            record["versions"] = package_versions()
            for name, about in record.get("files", {}).items():
                if about["stage"] == stage and (self.path / name).is_file():
                    about["sha256"] = file_digest(self.path / name)

    def bind(self, path: Path) -> None:
        """Note the content of a file that a stage wrote after its entry, from which it is made."""
        with self.updating() as record:
            about = record.get("files", {}).get(str(path.relative_to(self.path)))
            if about is not None:  # runs of earlier versions tell nothing of their files
                about["sha256"] = file_digest(path)

    def load_direction(self) -> SelectedDirection:
        """The selected direction. Raises UserError, also where what lies here is not the one that `select` chose."""
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
            raise UserError(f"{self.direction} is not the candidate that {self.direction_metadata} names; {_BY_HAND}")
        self._require_selected(position, layer)
        return SelectedDirection(direction, position, layer)

    def require_direction(self, bound: str) -> None:
        """Raise UserError where another direction was selected since that of this digest was read."""
        if self.read_record().get("select", {}).get("direction", bound) != bound:
            raise UserError(f"another direction was selected in {self.path} at this moment; start again")

    def _require_selected(self, position: int, layer: int) -> None:
        """Raise UserError where the direction that lies here is not the one that run.json says was selected."""
        record = self.read_record()
        selected = record.get("select", {}).get("selected")
        if not selected:
            raise UserError(f"{self.record} does not say that {self.direction} was selected; {_BY_HAND}")
        bound = record.get("files", {}).get(self.direction.name, {}).get("sha256")  # none in runs of earlier versions
        same = bound is None or bound == file_digest(self.direction)
        if (selected["position"], selected["layer"]) != (position, layer) or not same:
            raise UserError(
                f"{self.direction} (position {position}, layer {layer}) is not the direction that `select` chose "
                f"(position {selected['position']}, layer {selected['layer']}); {_BY_HAND}"
            )


_MEND_RECORD = "it says what made the other files, so put a copy back, or move the folder away and run `select` again"
_BY_HAND = "to evaluate a candidate of your own choice, run `select` with select.position and select.layer"


def direction_digest(direction: torch.Tensor, position: int, layer: int) -> str:
    """What results under a direction are bound to: its values, and the place that it is from."""
    values = direction.detach().to(torch.float64).contiguous().numpy().tobytes()
    return digest([sha256_of(values), position, layer])


def write_tensor(path: Path, tensor: torch.Tensor) -> None:
    """Save a tensor of its own storage, the same bytes for the same values whatever the file's name."""
    buffer = io.BytesIO()
    torch.save(tensor.detach().clone(), buffer)
    write_bytes(path, buffer.getvalue())
