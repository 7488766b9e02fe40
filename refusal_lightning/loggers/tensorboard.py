"""TensorBoard: event files in ``logs/tensorboard/<stage>/version_<n>``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from refusal_lightning.loggers.spec import LoggerSpec, LogPlace

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger


def _make(place: LogPlace) -> Logger:
    from lightning.pytorch.loggers import TensorBoardLogger

    # Without a metric of its own, Lightning would invent one for the hyperparameters (hp_metric, -1).
    return TensorBoardLogger(place.folder / "tensorboard", name=place.stage, default_hp_metric=False)


def _add_figure(logger: Any, name: str, path: Path) -> None:
    from matplotlib.image import imread

    colors = (255 * imread(path)[..., :3]).round().astype("uint8")
    logger.experiment.add_image(name, colors, 0, dataformats="HWC")


SPEC = LoggerSpec(_make, package="tensorboard", add_figure=_add_figure)
