"""The Lightning Trainer that runs every predict loop of the package."""

from __future__ import annotations

import logging
import signal
import threading
import warnings
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.strategies import DDPStrategy
from torch.utils.data import DataLoader

from refusal_lightning.config import TrainerConfig
from refusal_lightning.data.work import WorkDataModule
from refusal_lightning.errors import UserError
from refusal_lightning.models.chat_model import DeviceMap
from refusal_lightning.modules.base import ModelModule
from refusal_lightning.stages.company import (
    STOPPED,
    ask_to_stop,
    at_hand,
    check_company,
    wait_for_all,
    wait_for_files,
)
from refusal_lightning.stages.strategies import DeviceMapStrategy, ReplicaStrategy
from refusal_lightning.writers.journal_writer import JournalWriter

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


class _EndEarly(Callback):
    """Ends the loop where this process or another was told to stop (at once where another was lost).

    It ends when what is at hand is written, with exit status 143. Lightning only notes a SIGTERM in predict loops, and
    its handler waits there for all processes to be signalled.
    """

    def on_predict_start(self, *args: Any, **kwargs: Any) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, lambda *_: ask_to_stop())  # Lightning puts the earlier one back at the end

    def on_predict_batch_end(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        if check_company() and all(getattr(callback, "at_rest", True) for callback in callbacks):
            raise SystemExit(STOPPED)


def build_trainer(config: TrainerConfig, callbacks: Sequence[Callback] = ()) -> L.Trainer:
    """A Trainer that only predicts: no logger, no checkpoints, no sampler of its own. Raises UserError."""
    arguments: dict[str, Any] = {
        "accelerator": config.accelerator,
        "devices": config.devices,
        "num_nodes": config.num_nodes,
        "enable_progress_bar": config.progress_bar,
        "logger": False,
        "enable_checkpointing": False,
        "enable_model_summary": False,
        "use_distributed_sampler": False,
        **config.extra,
    }
    if SLURMEnvironment.detect():
        # Lightning's own requeue would write the model's weights into the working directory.
        arguments["plugins"] = [SLURMEnvironment(auto_requeue=False)]
    every = [*callbacks, _EndEarly()]
    try:
        if config.strategy == "auto":
            # Lightning's own choice, except that processes wait for each other as ours do.
            trainer = L.Trainer(callbacks=every, strategy="auto", **arguments)
            if not isinstance(trainer.strategy, DDPStrategy):
                return trainer
        own = DeviceMapStrategy if config.strategy == "device_map" else ReplicaStrategy
        strategy = own(timeout=timedelta(minutes=config.timeout_minutes))
        trainer = L.Trainer(callbacks=every, strategy=strategy, **arguments)
    except Exception as error:
        raise UserError(f"trainer: {' '.join(str(error).split())}") from error
    gpus = torch.cuda.device_count()
    if config.strategy == "device_map" and strategy.root_device.type == "cuda" and trainer.num_devices != gpus:
        raise UserError(
            f"trainer.strategy device_map spreads the model over all {gpus} GPUs that it sees, and trainer.devices is "
            f"{config.devices}; set trainer.devices: auto, and CUDA_VISIBLE_DEVICES for fewer"
        )
    return trainer


def main_device(config: TrainerConfig) -> torch.device:
    """The device that this process's predict loops run on."""
    return build_trainer(config).strategy.root_device


class _Nothing(L.LightningModule):
    """A predict loop that does nothing."""

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        return batch


_children: list[Any] = []  # a Popen that nobody holds complains of a process that still runs


def meet(config: TrainerConfig, device_map: DeviceMap | None) -> None:
    """Start the other processes of this machine, if they are Lightning's to start, and wait for all of the run.

    Raises UserError where each would have a copy of a model that is to be spread over the devices.
    """
    trainer = build_trainer(config)
    _refuse_copies(trainer, device_map)
    trainer.predict(_Nothing(), DataLoader([0], batch_size=None), return_predictions=False)  # type: ignore[arg-type]
    # Until here Lightning kills all of this machine's processes a few seconds after one has failed. From here on each
    # knows of the others by itself, and is not to be killed while it writes: Lightning has none left to look after.
    children = getattr(trainer.strategy.launcher, "procs", [])
    _children.extend(children)
    children.clear()


def _refuse_copies(trainer: L.Trainer, device_map: DeviceMap | None) -> None:
    several = trainer.world_size
    if device_map is not None and not isinstance(trainer.strategy, DeviceMapStrategy) and several > 1:
        raise UserError(
            f"model.device_map spreads one copy of the model, and the trainer asks for {several} processes with a copy "
            "each; trainer.strategy: device_map gives each node one process and one copy"
        )


def run_predict(
    config: TrainerConfig, module: L.LightningModule, work: WorkDataModule, callbacks: Sequence[Callback]
) -> bool:
    """Run one predict loop over the work, on all processes, and wait for all. True on global rank 0.

    Raises UserError where each process would have a copy of a model that is to be spread over the devices.
    """
    trainer = build_trainer(config, callbacks)
    if isinstance(module, ModelModule):
        _refuse_copies(trainer, module.model.device_map)
    with at_hand():
        trainer.predict(module, datamodule=work, return_predictions=False)
    wait_for_all()
    written = [callback.written for callback in callbacks if isinstance(callback, JournalWriter)]
    wait_for_files({path: size for files in written for path, size in files.items()})
    return bool(trainer.is_global_zero)
