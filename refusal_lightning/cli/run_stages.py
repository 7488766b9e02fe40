"""`run --stages NAME ...`: which stages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from refusal_lightning.pipeline.stages import DEFAULT, STAGES

if TYPE_CHECKING:
    import jsonargparse


def add_flags(parser: jsonargparse.ArgumentParser) -> None:
    """The flag of `run` that no configuration has."""
    parser.add_argument(
        "--stages",
        type=str,
        nargs="+",
        metavar="NAME",
        default=list(DEFAULT),
        help=f"Which of {', '.join(STAGES)} to run; they are run in this order, whatever the order here.",
    )


def redirect(target: str, values: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The sections as one value, beside the stages. Raises UserError."""
    from refusal_lightning.pipeline.sections import Sections

    given = dict(values)
    names = [name for words in given.pop("stages") for name in words.split(",") if name]
    return target, {"sections": Sections(**given), "stages": names}
