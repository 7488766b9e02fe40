"""CSV: metrics.csv and hparams.yaml in ``logs/csv/<stage>/version_<n>``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from refusal_lightning.loggers.spec import LoggerSpec, LogPlace

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger


def _make(place: LogPlace) -> Logger:
    from lightning.pytorch.loggers import CSVLogger

    return CSVLogger(place.folder / "csv", name=place.stage)


SPEC = LoggerSpec(_make)
