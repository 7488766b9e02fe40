"""`data prepare` as the command line knows it: its keys, and what it says when it is done."""

from __future__ import annotations

import logging
from dataclasses import dataclass

log = logging.getLogger(__name__)


@dataclass
class PrepareConfig:
    """Build the paper's dataset folder from the public sources (they hold offensive text)."""

    out: str = "dataset"
    """Folder that gets `raw/`, `processed/` and `splits/`; what is there and right is kept."""
    mirror: str | None = None
    """Folder or URL that holds the sources' files (`raw/advbench.csv`, ...; Alpaca as `processed/alpaca.json` or
    `raw/alpaca_data.json`), in place of the public ones."""
    splits: str | None = None
    """Folder with six splits (`harmful_train.json`, ...) to take as they are (default: they are drawn)."""
    seed: int = 42
    """Seed of the draw; 42 gives the authors' harmless splits exactly."""

    def __post_init__(self) -> None:
        for key in ("out", "mirror", "splits"):
            value = getattr(self, key)
            if value is not None and not value.strip():
                raise ValueError(f"{key} is {value!r}; it must be a folder{' or URL' if key == 'mirror' else ''}")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed!r}; it must be 0 or more")


def data_prepare(config: PrepareConfig) -> None:
    """Build the folder, and say how many rows each split has."""
    from refusal_lightning.data.prepare import prepare

    counts = prepare(config.out, config.mirror, config.seed, config.splits)
    for name, count in counts.items():
        log.info(f"{config.out}/splits/{name}.json  {count} rows")
    log.info(f"Set data.root to {config.out} to use them.")
