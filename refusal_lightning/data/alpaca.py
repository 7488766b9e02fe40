"""Alpaca with its answers, as the authors take it for the loss."""

from __future__ import annotations

import itertools
from typing import Any

from refusal_lightning.data.hub import load_hub
from refusal_lightning.data.sources import SOURCES
from refusal_lightning.data.tables import read_table
from refusal_lightning.data.texts import Text, TextRequest, texts_of

ALPACA_FILE = "raw/alpaca_data.json"
"""Where `data prepare` puts Alpaca with its answers."""
SHUFFLE_SEED = 42
"""The authors shuffle Alpaca with it before they take its first rows."""


def alpaca_texts(request: TextRequest) -> list[Text]:
    """Its rows without input, in the authors' order; from the data's folder if they are there, else from the Hub."""
    import datasets

    path, hub = request.root / ALPACA_FILE, SOURCES["alpaca"].hub
    rows: list[Any] = read_table(path) if path.is_file() or hub is None else load_hub(hub)
    shuffled = datasets.Dataset.from_list(rows).shuffle(seed=SHUFFLE_SEED)
    chosen = itertools.islice((row for row in shuffled if not row["input"].strip()), request.count)
    return texts_of(chosen, "Alpaca", {"instruction": "instruction", "response": "output"})
