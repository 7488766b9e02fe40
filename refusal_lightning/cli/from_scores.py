"""`select --from-scores FILE`: the same command without model and store, from a table of scores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from refusal_lightning.errors import UserError

if TYPE_CHECKING:
    import jsonargparse

_TARGET = "refusal_lightning.stages.select.replay:replay_choice"


def add_flags(parser: jsonargparse.ArgumentParser) -> None:
    """The flags of `select` that no configuration has."""
    parser.add_argument(
        "--from-scores",
        type=str | None,
        metavar="FILE",
        help="Only choose, from a table of scores such as direction_evaluations.json; needs no model and no store.",
    )
    parser.add_argument("--json", action="store_true", help="With --from-scores: the choice as a last line of JSON.")


def redirect(target: str, values: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The function to call and its arguments: another one where a table was given. Raises UserError."""
    given = dict(values)
    scores, as_json = given.pop("from_scores"), given.pop("json")
    if scores is not None:
        return _TARGET, {"path": scores, "config": given["select"], "as_json": as_json}
    if as_json:
        raise UserError("--json goes with --from-scores")
    return target, given
