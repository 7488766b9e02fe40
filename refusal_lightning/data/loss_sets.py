"""The sets of texts whose loss is measured: by name, as files, on the Hub."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from refusal_lightning.data.alpaca import alpaca_texts
from refusal_lightning.data.hub import PREFIX, HubSet, parse_hub
from refusal_lightning.data.tables import is_table
from refusal_lightning.data.texts import Text, TextRequest, streamed_texts, texts_from_file
from refusal_lightning.errors import UserError
from refusal_lightning.io.shipped import locate
from refusal_lightning.registry import Registry

PILE = HubSet("monology/pile-uncopyrighted", None, "train")


@dataclass(frozen=True)
class LossSet:
    """A set of texts that has a name of its own."""

    label: str
    """What tables call it; ``{harmful}`` and ``{harmless}`` stand for the two kinds of prompts."""
    load: Callable[[TextRequest], list[Text]] | None
    """Gives its texts, and raises UserError; None: they are the baseline's own completions of the harmless sets."""


LOSS_SETS: Registry[LossSet] = Registry(
    "set of texts",
    {
        "pile": LossSet("pile", partial(streamed_texts, PILE)),
        "alpaca": LossSet("alpaca", alpaca_texts),
        "alpaca_custom_completions": LossSet("own {harmless} answers", None),  # the authors' key in loss_evals
    },
)
"""The texts that a configuration may name, beside files and sets on the Hub."""


def of_the_baseline(name: str) -> bool:
    """Whether a set's texts are the baseline's own completions, which are there once they were made."""
    return name in LOSS_SETS and LOSS_SETS[name].load is None


def load_texts(
    name: str,
    count: int,
    root: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    kept: Path | None = None,
) -> list[Text]:
    """The first ``count`` texts of a set, fewer where it has fewer.

    ``name`` is one of ``LOSS_SETS``, a file (.json, .jsonl, .csv, .parquet, .txt) or
    ``hub:org/name[@revision][:config][:split]``, which is streamed; for the rest see ``TextRequest``. Raises UserError.
    """
    request = TextRequest(count, locate(root), columns, kept)
    known = {known: one.load for known, one in LOSS_SETS.items() if one.load is not None}
    if name in known:
        return known[name](request)
    if name.startswith(PREFIX):
        return streamed_texts(parse_hub(name), request)
    if is_table(name):
        return texts_from_file(locate(name).expanduser(), request)
    raise UserError(f"texts {name!r} are neither {' nor '.join(known)}, nor a file, nor hub:org/name:config:split")
