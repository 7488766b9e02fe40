"""What `capability` leaves in a run's folder: a file of scores for each intervention, and what made it."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

from refusal_lightning.interventions.registry import INTERVENTIONS
from refusal_lightning.io.hashing import digest
from refusal_lightning.io.serialization import write_json
from refusal_lightning.runs.folder import RunFolder
from refusal_lightning.runs.made_from import MadeFrom, in_short, kept_aside, make_room
from refusal_lightning.stages.capability.inputs import CapabilityInputs
from refusal_lightning.stages.capability.scores import CapabilityResult, Scores

log = logging.getLogger(__name__)


def made_from(inputs: CapabilityInputs) -> dict[str, MadeFrom]:
    """What each intervention's file will be made from; its key is what the scores depend on."""
    settings, defined_by = inputs.settings(), inputs.defined_by()
    return {
        name: {
            "model": digest(inputs.chat.identity),
            "direction": inputs.selected.digest if INTERVENTIONS[name].needs_direction else None,
            "under": [name],
            "settings": settings | {"defined_by": digest(defined_by)},
            "key": digest([*defined_by, acting.depends_on, settings]),
        }
        for name, acting in inputs.acting.items()
    }


def known_scores(run: RunFolder, wanted: Mapping[str, MadeFrom]) -> dict[str, Scores]:
    """Scores that were computed before, by intervention, also those that were moved aside since."""
    found = {name: _kept(run, name, about["key"]) for name, about in wanted.items()}
    return {name: scores for name, scores in found.items() if scores is not None}


def prepare_folder(run: RunFolder, wanted: Mapping[str, MadeFrom], inputs: CapabilityInputs) -> None:
    """Move aside what is of another direction or other settings, and note what will be written."""
    any_of_them = next(iter(wanted.values()))

    def stays(name: str, about: MadeFrom) -> bool:
        same = all(about[key] == any_of_them[key] for key in ("model", "settings"))
        return same and about["direction"] in (None, inputs.selected.digest)

    beside = make_room(run, "capability", {run.capability(name): about for name, about in wanted.items()}, stays)
    if beside:
        log.info(
            f"capability: {in_short(run, beside)} of earlier runs stay in {run.path}, being of the same direction and "
            "settings; they are not in the table"
        )


def write_scores(run: RunFolder, name: str, scores: Scores, about: MadeFrom) -> None:
    """One intervention's file."""
    write_json(run.capability(name), {**scores, "key": about["key"], "made_from": about})


def record_of(result: CapabilityResult) -> dict[str, Any]:
    """What run.json says of the scores, beside their configuration."""
    selected = result.inputs.selected
    return {
        "model": result.inputs.chat.identity,
        "position": selected.position,
        "layer": selected.layer,
        "direction": selected.digest,
        "hooks_proved": result.hooks_proved,
    }


def _kept(run: RunFolder, intervention: str, key: str) -> Scores | None:
    """Scores of this key, also those that were moved aside; None where there are none."""
    path = run.capability(intervention)
    for place in (path, *kept_aside(run, str(path.relative_to(run.path)))):
        try:
            kept = json.loads(place.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(kept, dict) and kept.get("key") == key:
            return kept
    return None
