"""The Lightning Trainer that runs every predict loop of the package."""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.strategies import DDPStrategy

from refusal_lightning.config import TrainerConfig
from refusal_lightning.data.work import WorkDataModule
from refusal_lightning.errors import UserError
from refusal_lightning.modules.base import ModelModule

# Lightning sets its loggers up when it is imported; its notes on devices and products are not the user's results.
for _name in ("lightning.pytorch", "lightning.fabric"):
    logging.getLogger(_name).setLevel(logging.WARNING)
for _message in (
    ".*does not have many workers.*",
    ".*srun.*command is available.*",
    ".*infer the batch indices.*",  # batches carry their own row numbers
    ".*LeafSpec.*is deprecated.*",
    ".*overridden `transfer_batch_to_device`.*",  # the model knows where its embedding is
):
    warnings.filterwarnings("ignore", message=_message)


class _StopOnSigterm(Callback):
    """Lightning only notes a SIGTERM in predict loops; here the loop ends at the next batch, exit status 143."""

    def on_predict_batch_end(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        if trainer.received_sigterm:
            raise SystemExit(143)


def build_trainer(config: TrainerConfig, callbacks: Sequence[Callback] = ()) -> L.Trainer:
    """A Trainer that only predicts: no logger, no checkpoints, no sampler of its own. Raises UserError."""
    arguments: dict[str, Any] = {
        "accelerator": config.accelerator,
        "devices": config.devices,
        "num_nodes": config.num_nodes,
        "strategy": config.strategy,
        "enable_progress_bar": config.progress_bar,
        "logger": False,
        "enable_checkpointing": False,
        "enable_model_summary": False,
        "use_distributed_sampler": False,
        **config.extra,
    }
    unknown = set(config.extra) - set(inspect.signature(L.Trainer.__init__).parameters)
    if unknown:
        raise UserError(f"trainer.extra: lightning.Trainer has no argument {', '.join(sorted(unknown))}")
    if config.strategy == "ddp":
        # Processes wait for each other at the end of a loop, however uneven their parts.
        arguments["strategy"] = DDPStrategy(timeout=timedelta(minutes=config.timeout_minutes))
    if SLURMEnvironment.detect() and "plugins" not in arguments:
        # Lightning's own requeue would write the model's weights into the working directory.
        arguments["plugins"] = [SLURMEnvironment(auto_requeue=False)]
    try:
        return L.Trainer(callbacks=[*callbacks, _StopOnSigterm()], **arguments)
    except Exception as error:
        raise UserError(f"trainer: {' '.join(str(error).split())}") from error


def main_device(config: TrainerConfig) -> torch.device:
    """The device that this process's predict loops run on."""
    return build_trainer(config).strategy.root_device


def run_predict(
    config: TrainerConfig, module: L.LightningModule, work: WorkDataModule, callbacks: Sequence[Callback]
) -> bool:
    """Run one predict loop over the work, on all processes, and wait for all. True on global rank 0.

    Raises UserError where each process would have a copy of a model that is to be spread over the devices.
    """
    trainer = build_trainer(config, callbacks)
    if isinstance(module, ModelModule) and module.model.device_map is not None and trainer.world_size > 1:
        raise UserError(
            f"model.device_map spreads one copy of the model, and trainer.devices and num_nodes ask for "
            f"{trainer.world_size} processes with a copy each; use one or the other"
        )
    trainer.predict(module, datamodule=work, return_predictions=False)
    trainer.strategy.barrier()
    return bool(trainer.is_global_zero)
