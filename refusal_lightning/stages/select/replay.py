"""select --from-scores: only the choice, from a published or saved table of scores."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from refusal_lightning.config import SelectConfig
from refusal_lightning.directions.selection.candidates import CandidateScores, from_rows
from refusal_lightning.directions.selection.choose import select as choose
from refusal_lightning.directions.selection.filters import Thresholds
from refusal_lightning.directions.selection.partial_table import StagedTable, undecided
from refusal_lightning.errors import UserError
from refusal_lightning.io.hashing import file_digest

log = logging.getLogger(__name__)


def replay_choice(path: str, config: SelectConfig, as_json: bool) -> None:
    """Choose from a ``direction_evaluations.json``; no model, no store, no network.

    Tells the filter's report and the choice; with ``as_json`` the last line is one JSON object. Raises UserError for
    a table that cannot be read, or that staged scoring left without scores that these thresholds need (which
    ``direction_evaluations.meta.json`` beside it tells; without that file it is a warning), NoCandidateError when
    nothing passes.
    """
    if config.position is not None:
        raise UserError("--from-scores is the choice by the rules; leave select.position and select.layer out")
    try:
        table = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"score table {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"score table {path} is not JSON: {error}") from error
    scores = from_rows(table)
    thresholds = Thresholds(config.kl_threshold, config.induce_threshold, config.prune_layers)
    made = _require_scores(Path(path), scores, thresholds)
    selection = choose(scores, thresholds, ruled_out=None if made is None else made.ruled_out)
    best = selection.scores
    log.info(selection.report.text())
    log.info(
        f"position {best.position}, layer {best.layer}: bypass {best.bypass:.3f}, induce "
        f"{best.induce:.3f}, KL {best.kl:.4f}; ahead of the next by {selection.margin:.3f}"
    )
    if as_json:
        print(json.dumps({"pos": selection.position, "layer": selection.layer, "filtered": len(selection.survivors)}))


def _require_scores(path: Path, scores: CandidateScores, thresholds: Thresholds) -> StagedTable | None:
    """How a table came about that lacks scores, having seen that no candidate without all of them might be chosen.

    Raises UserError, or warns where nobody can tell.
    """
    known, made = _about(path)
    places = undecided(scores, thresholds, made) if made is not None or not known else []
    if not places:
        return made
    position, layer = places[0]
    first = f"first position {position}, layer {layer}"
    if made is None:
        log.warning(
            f"{len(places)} candidates fail no rule by the scores that they have, and lack others ({first}). "
            f"If {path.name} was made with select.mode: staged, one of them may be the right choice"
        )
        return None
    then = made.thresholds
    raise UserError(
        f"{path} was scored for other thresholds (kl_threshold {then.kl}, induce_threshold {then.induce}, prune_layers "
        f"{then.prune_layers}): under these, {len(places)} candidates that lack scores might be chosen ({first}). Run "
        "`select` with these thresholds, which computes what they need, or once with select.mode: exhaustive"
    )


def _about(path: Path) -> tuple[bool, StagedTable | None]:
    """Whether it is known how a table came about, and if scores are missing, how."""
    try:
        about = json.loads(path.with_suffix(".meta.json").read_text(encoding="utf-8"))
        if about["table_sha256"] != file_digest(path):
            return False, None
        ruled_out = {(row["position"], row["layer"]): row["reason"] for row in about["ruled_out"]}
        made = StagedTable(Thresholds(**about["thresholds"]), ruled_out)
    except (OSError, ValueError, KeyError, TypeError):
        return False, None
    return True, None if about["complete"] else made
