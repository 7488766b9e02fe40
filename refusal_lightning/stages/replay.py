"""select --from-scores: only the choice, from a published or saved table of scores."""

from __future__ import annotations

import json
from pathlib import Path

from refusal_lightning.config import SelectConfig
from refusal_lightning.directions.candidates import from_rows
from refusal_lightning.directions.filters import Thresholds
from refusal_lightning.directions.selection import select as choose
from refusal_lightning.errors import UserError


def replay_choice(path: str, config: SelectConfig, as_json: bool) -> None:
    """Choose from a ``direction_evaluations.json``; no model, no store, no network.

    Prints the filter's report and the choice; with ``as_json`` the last line is one JSON object. Raises UserError for
    a table that cannot be read, NoCandidateError when nothing passes.
    """
    try:
        table = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"score table {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"score table {path} is not JSON: {error}") from error
    scores = from_rows(table)
    selection = choose(scores, Thresholds(config.kl_threshold, config.induce_threshold, config.prune_layers))
    best = selection.scores
    print(selection.report.text())
    print(
        f"position {best.position}, layer {best.layer}: bypass {best.refusal_score:.3f}, induce "
        f"{best.steering_score:.3f}, KL {best.kl_div_score:.4f}; ahead of the next by {selection.margin:.3f}"
    )
    if as_json:
        print(json.dumps({"pos": selection.pos, "layer": selection.layer, "filtered": len(selection.survivors)}))
