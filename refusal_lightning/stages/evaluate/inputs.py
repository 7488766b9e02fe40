"""What `evaluate` starts from: model, direction, prompts, texts and judges."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from refusal_lightning.config import DataConfig, EvaluateConfig, RunsConfig, TrainerConfig
from refusal_lightning.distributed.process_group import require_same_on_all_ranks, require_shared_folder
from refusal_lightning.inference.judge_model import local_loader
from refusal_lightning.inputs.evaluation_sets import EvaluationSet, evaluation_sets, require_sets
from refusal_lightning.inputs.loss_texts import ScoredText, loss_texts, read_loss_sets
from refusal_lightning.interventions.registry import INTERVENTIONS
from refusal_lightning.io.console import is_main_process
from refusal_lightning.io.hashing import digest
from refusal_lightning.judges.config import JudgeSettings
from refusal_lightning.judges.registry import judges_by_name
from refusal_lightning.judges.verdict import Judge
from refusal_lightning.models import ChatModel
from refusal_lightning.runs.folder import RunFolder, SelectedDirection


@dataclass(frozen=True)
class EvaluationInputs:
    """What is answered, measured and judged, with which model, direction and settings. No weights are loaded."""

    chat: ChatModel
    selected: SelectedDirection
    sets: Sequence[EvaluationSet]
    texts: Mapping[str, list[ScoredText]]
    """Texts whose loss is measured, by their key in the results, but for the baseline's own completions."""
    judges: Mapping[str, Judge]
    """By the name that files use."""
    config: EvaluateConfig = field(default_factory=EvaluateConfig)
    judging: JudgeSettings = field(default_factory=JudgeSettings)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)

    @classmethod
    def open(
        cls,
        chat: ChatModel,
        data: DataConfig,
        trainer: TrainerConfig,
        runs: RunsConfig,
        evaluate: EvaluateConfig,
        judging: JudgeSettings,
    ) -> EvaluationInputs:
        """Read what the configuration names, and the direction that was selected in the run's folder.

        Raises UserError, before any work.
        """
        run = RunFolder(runs.root, chat.alias)

        def selected() -> SelectedDirection:
            direction = run.load_direction()
            run.prepare()
            require_shared_folder(run.path, "runs.root")
            return direction

        return cls.of(chat, selected, data, trainer, evaluate, judging)

    @classmethod
    def of(
        cls,
        chat: ChatModel,
        direction: Callable[[], SelectedDirection],
        data: DataConfig,
        trainer: TrainerConfig,
        evaluate: EvaluateConfig,
        judging: JudgeSettings,
    ) -> EvaluationInputs:
        """The same of any direction, which is asked for once the judges can be asked; the same in all processes."""
        judges = ready_judges(evaluate, judging, trainer)
        selected = direction()
        sets = evaluation_sets(chat, data, evaluate)
        texts = read_loss_sets(chat, data, evaluate)
        require_same_on_all_ranks(
            {
                "model": digest(chat.identity),
                "direction": digest(selected.vector.tolist()),
                "prompts": digest([item.prompts.hashes for item in sets]),
                "texts": digest(texts),
            }
        )
        return cls(chat, selected, sets, texts, judges, evaluate, judging, trainer)

    def in_place_of(self, role: str) -> list[EvaluationSet]:
        """The sets in the place of harmful, or of harmless prompts."""
        return [item for item in self.sets if item.role == role]

    @property
    def completion_settings(self) -> dict[str, Any]:
        """What completions depend on beside model, intervention and prompts."""
        sampling = self.config.sampling
        return {
            "max_new_tokens": self.config.max_new_tokens,
            "stop_tokens": self.chat.stop_ids,
            "sampling": asdict(sampling) if sampling else None,
        }


def require_settings(
    data: DataConfig, trainer: TrainerConfig, evaluate: EvaluateConfig, judging: JudgeSettings
) -> None:
    """Raise UserError where the configuration names a judge that cannot be asked, or prompts or texts that are not
    there."""
    ready_judges(evaluate, judging, trainer)
    require_sets(data, evaluate)
    loss_texts(data, evaluate)


def ready_judges(evaluate: EvaluateConfig, judging: JudgeSettings, trainer: TrainerConfig) -> dict[str, Judge]:
    """The judges by the name that files use, seen to answer. Raises UserError, also for interventions that are none."""
    INTERVENTIONS.require(evaluate.interventions, "evaluate.interventions")
    judges = judges_by_name(evaluate.judges, judging, local_loader(judging, trainer))
    if is_main_process():  # which alone asks over the network
        for judge in judges.values():
            judge.check()
    return judges
