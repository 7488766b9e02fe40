"""`report --run FOLDER`: the folder of a run, in place of the configuration that leads to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import jsonargparse

_TARGET = "refusal_lightning.stages.report:report_on"


def add_flags(parser: jsonargparse.ArgumentParser) -> None:
    """The flag of `report` that no configuration has."""
    parser.add_argument(
        "--run",
        type=str | None,
        metavar="FOLDER",
        help="The run's folder, such as runs/my-model, in place of a configuration.",
    )


def redirect(target: str, values: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The function to call and its arguments: another one where a folder was given."""
    given = dict(values)
    folder = given.pop("run")
    return (target, given) if folder is None else (_TARGET, {"folder": folder})
