"""What all figures share: an empty one, labels that are no markup, and PNG bytes that follow from the figure alone."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LAYER = "layer (resid_pre)"
"""Label of an axis of layers."""


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches."""
    from matplotlib.figure import Figure  # slow to import, and the report only wants to know which figures there are

    # A Figure of its own, not pyplot's: nothing global to close.
    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    vars(figure)["_repr_png_"] = lambda: png(figure)  # by which a notebook shows it
    return figure


def plain(text: str) -> str:
    """Text that matplotlib shows as it is: nothing of it is taken for markup."""
    return text.replace("$", r"\$")


def position_label(position: int, position_tokens: Sequence[str]) -> str:
    """A negative position and the token that stands there."""
    return f"{position}: {plain(repr(position_tokens[position]))}"


def png(figure: Figure) -> bytes:
    """The figure as PNG."""
    buffer = io.BytesIO()
    # No software version in the file: the same figure gives the same bytes.
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
