"""Mistakes of a configuration that its last stage would stumble over, told before its first."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from refusal_lightning.config import TrainerConfig
from refusal_lightning.inputs.activations import open_store_with, require_candidates
from refusal_lightning.inputs.model import open_model
from refusal_lightning.io.files import require_writable
from refusal_lightning.models import ChatModel
from refusal_lightning.pipeline.sections import Sections
from refusal_lightning.runs.folder import RunFolder
from refusal_lightning.runs.made_from import claim
from refusal_lightning.stages.report import require_evaluation


def require_possible(sections: Sections, stages: AbstractSet[str]) -> None:
    """Raise UserError for what no work of these stages would mend: names, files, keys, folders. No weights are loaded.

    What the first stage reads before its own work is left to it.
    """
    if stages == {"report"}:
        return
    chat = open_model(sections.model, sections.trainer)
    if "cache" not in stages and stages & {"select", "analyze"}:
        open_store_with(chat, sections.store, sections.cache, [])
    if stages != {"cache"}:
        _require_folder(sections, chat, stages)
    # Each stage's own, imported where it is to run.
    if "select" in stages:
        from refusal_lightning.stages.select import inputs as select

        select.require_settings(chat, sections.cache, sections.select)
    if "evaluate" in stages:
        from refusal_lightning.stages.evaluate import inputs as evaluate

        evaluate.require_settings(sections.data, sections.trainer, sections.evaluate, sections.judging)
    if "capability" in stages:
        from refusal_lightning.stages.capability import inputs as capability

        capability.require_settings(sections.trainer, sections.capability)
    if "analyze" in stages:
        from refusal_lightning.stages.analyze import stage as analyze

        require_candidates(chat, sections.cache)
        analyze.require_settings(sections.select, sections.analyze)


def require_one_process(trainer: TrainerConfig) -> None:
    """Raise UserError where `capability` would have several processes."""
    from refusal_lightning.stages.capability import inputs as capability

    capability.require_one_process(trainer)


def _require_folder(sections: Sections, chat: ChatModel, stages: AbstractSet[str]) -> None:
    """Raise UserError where the run's folder cannot be written, is another model's, or lacks a direction that no stage
    will select."""
    run = RunFolder(sections.runs.root, chat.alias)
    require_writable(run.path, "runs.root")
    if "select" not in stages or not sections.runs.replace:
        claim(run, chat.identity, sections.model.name)
    if "report" in stages and "evaluate" not in stages:
        require_evaluation(run)
    if "select" in stages:
        return
    if stages & {"evaluate", "capability"}:
        run.load_direction()
    if "analyze" in stages:
        from refusal_lightning.stages.analyze.opening import require_direction

        require_direction(run, sections.analyze.analyses)
