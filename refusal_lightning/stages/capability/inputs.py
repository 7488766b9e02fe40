"""What `capability` starts from: model, direction, tasks, and the interventions with what their scores depend on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

from refusal_lightning.config import CapabilityConfig, RunsConfig, TrainerConfig
from refusal_lightning.errors import UserError
from refusal_lightning.interventions import KeyedIntervention
from refusal_lightning.interventions.registry import INTERVENTIONS, build_intervention
from refusal_lightning.io.hashing import digest, file_digest
from refusal_lightning.io.shipped import locate
from refusal_lightning.models import ChatModel
from refusal_lightning.runs.folder import RunFolder, SelectedDirection
from refusal_lightning.stages.capability.harness import open_tasks

CAPABILITY_VERSION = 2
"""Raised when what the harness is given changes: scores of another version are not used. 2: one generation
configuration for every decoder."""


@dataclass(frozen=True)
class CapabilityInputs:
    """What is measured, with which model, direction and settings. No weights are loaded."""

    chat: ChatModel
    selected: SelectedDirection
    acting: Mapping[str, KeyedIntervention]
    """The interventions, as on harmful prompts."""
    task_manager: Any
    """The harness's, which knows its tasks and the user's."""
    config: CapabilityConfig
    trainer: TrainerConfig

    @classmethod
    def open(
        cls, chat: ChatModel, trainer: TrainerConfig, runs: RunsConfig, capability: CapabilityConfig
    ) -> CapabilityInputs:
        """Read what the configuration names. Raises UserError, before any work."""
        task_manager = require_settings(trainer, capability)
        run = RunFolder(runs.root, chat.alias)
        selected = run.load_direction()
        run.prepare()
        acting = {
            name: build_intervention(name, selected.vector, selected.layer, "harmful")
            for name in capability.interventions
        }
        return cls(chat, selected, acting, task_manager, capability, trainer)

    def settings(self) -> dict[str, Any]:
        """What all scores depend on beside what defines them: the tasks, the user's own files, how they are put."""
        no_matter = ("interventions", "batch_size", "trust_task_code")
        settings = {name: value for name, value in asdict(self.config).items() if name not in no_matter}
        return settings | {"own_files": _own_files(self.config)}

    def defined_by(self) -> list[Any]:
        """What the harness is given, by this version of the code.

        Which decoder is taken is known without weights: a model that is spread is called as it was spread.
        """
        decoder = "spread" if self.chat.spread else "whole"
        return [CAPABILITY_VERSION, self.chat.identity, self.chat.stop_ids, decoder, version("lm_eval")]


def require_settings(trainer: TrainerConfig, capability: CapabilityConfig) -> Any:
    """The harness's tasks (``open_tasks``). Raises UserError where the configuration cannot be done."""
    INTERVENTIONS.require(capability.interventions, "capability.interventions")
    require_one_process(trainer)
    return open_tasks(capability)


def require_one_process(trainer: TrainerConfig) -> None:
    """Raise UserError where the trainer is to have several processes."""
    if trainer.devices not in (1, "1", "auto") or trainer.num_nodes > 1:
        raise UserError("capability runs in one process; set trainer.devices: 1 (model.device_map spreads a model)")


def _own_files(config: CapabilityConfig) -> str:
    """A digest of the user's task files, so that other questions are asked anew."""
    folder = None if config.include_path is None else locate(config.include_path)
    files = sorted(path for path in folder.rglob("*") if path.is_file()) if folder else []
    return digest([[str(path.relative_to(folder)), file_digest(path)] for path in files])  # type: ignore[arg-type]
