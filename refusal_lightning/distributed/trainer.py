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
from lightning.pytorch.callbacks import Callback, TQDMProgressBar
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.strategies import DDPStrategy
from torch.utils.data import DataLoader

from refusal_lightning.config import TrainerConfig
from refusal_lightning.distributed.shutdown import EXIT_TERMINATED, request_shutdown, shutdown_requested
from refusal_lightning.distributed.strategies import DeviceMapStrategy, ReplicaStrategy
from refusal_lightning.errors import UserError
from refusal_lightning.io.notebook import in_notebook

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
            # Lightning puts the earlier one back at the end.
            signal.signal(signal.SIGTERM, lambda *_: request_shutdown())

    def on_predict_batch_end(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        if shutdown_requested() and all(getattr(callback, "at_rest", True) for callback in callbacks):
            raise SystemExit(EXIT_TERMINATED)


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
    # In a notebook Lightning's own choice, rich, shows nothing without ipywidgets.
    bar = [TQDMProgressBar()] if config.progress_bar and in_notebook() else []
    every = [*callbacks, *bar, _EndEarly()]
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


class _EmptyLoop(L.LightningModule):
    """A predict loop that does nothing."""

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        return batch


_children: list[Any] = []  # a Popen that nobody holds complains of a process that still runs


def launch_processes(config: TrainerConfig, spread: bool) -> None:
    """Start the other processes of this machine, if they are Lightning's to start, and wait for all of the run.

    Raises UserError where each would have a copy of a model that is ``spread`` over the devices.
    """
    trainer = build_trainer(config)
    require_one_copy(trainer, spread)
    trainer.predict(_EmptyLoop(), DataLoader([0], batch_size=None), return_predictions=False)  # type: ignore[arg-type]
    # Until here Lightning kills all of this machine's processes a few seconds after one has failed. From here on each
    # knows of the others by itself, and is not to be killed while it writes: Lightning has none left to look after.
    children = getattr(trainer.strategy.launcher, "procs", [])
    _children.extend(children)
    children.clear()


def require_one_copy(trainer: L.Trainer, spread: bool) -> None:
    """Raise UserError where several processes would each have a copy of a model that is ``spread`` over the devices."""
    several = trainer.world_size
    if spread and not isinstance(trainer.strategy, DeviceMapStrategy) and several > 1:
        raise UserError(
            f"model.device_map spreads one copy of the model, and the trainer asks for {several} processes with a copy "
            "each; trainer.strategy: device_map gives each node one process and one copy"
        )
