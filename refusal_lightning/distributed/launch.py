"""A stage in several processes: they meet before its work, run the same thing, and none outlives another's failure."""

from __future__ import annotations

import _thread
import functools
import inspect
import logging
import signal
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, is_dataclass
from typing import Any, ParamSpec, TypeVar

from refusal_lightning import plugins
from refusal_lightning.config import TrainerConfig
from refusal_lightning.distributed.process_group import (
    any_rank_stops,
    gather_objects,
    get_rank,
    is_distributed,
    require_same_on_all_ranks,
)
from refusal_lightning.distributed.shutdown import (
    EXIT_TERMINATED,
    ShutdownState,
    defer_shutdown,
    handle_sigterm,
    request_shutdown,
    state,
)
from refusal_lightning.distributed.watchdog import PeerWatchdog
from refusal_lightning.errors import UserError
from refusal_lightning.io.versions import package_versions

log = logging.getLogger(__name__)

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def distributed_stage(stage: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """A stage that may run in several processes, as its argument ``trainer`` says (see ``launched``)."""

    @functools.wraps(stage)
    def run(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        with launched(inspect.signature(stage).bind(*args, **kwargs).arguments):
            return stage(*args, **kwargs)

    return run


@contextmanager
def launched(given: Mapping[str, Any]) -> Iterator[None]:
    """The processes of a run, as its ``trainer`` says, until the work in the body is done.

    ``given`` is what was asked for: sections of the configuration by their names, ``trainer`` and ``model`` among them,
    and whatever else must be the same for all. The processes meet before anything else, with the versions of their
    packages, their plugins and their configuration; a difference is a UserError that names it. From then on, a process
    that ends before its work is done takes the others down.
    """
    state.requested = False
    trainer: TrainerConfig = given["trainer"]
    asked = {name: asdict(value) if is_dataclass(value) else value for name, value in given.items()}  # type: ignore[arg-type]
    facts = {**_flat(asked), **package_versions(), "plugins": plugins.in_short()}
    alone = trainer.devices in (1, "1") and trainer.num_nodes == 1
    try:
        with nullcontext() if alone else _together(trainer, given["model"].device_map is not None, facts):
            yield
    except SystemExit as end:
        if end.code == EXIT_TERMINATED:
            log.info("stopped before the work was done, as asked; the same command continues")
        raise


@contextmanager
def _together(trainer: TrainerConfig, spread: bool, facts: Mapping[str, object]) -> Iterator[None]:
    """All processes of the run, from when they have met until their work is done."""
    from refusal_lightning.distributed.trainer import launch_processes  # Lightning takes seconds to import

    state.agreed = False
    launch_processes(trainer, spread)
    if not is_distributed():
        yield
        return
    require_same_on_all_ranks(facts)
    # What another process says is as if the signal had come here.
    interrupt = functools.partial(_thread.interrupt_main, signal.SIGTERM)
    state.watchdog = watchdog = PeerWatchdog(gather_objects(socket.gethostname()), get_rank(), interrupt)
    try:
        with handle_sigterm():
            try:
                yield
            except SystemExit as end:
                with defer_shutdown():
                    if end.code == EXIT_TERMINATED:
                        _stop_together(state)
                raise
    except (UserError, KeyboardInterrupt, SystemExit):
        raise
    except Exception:
        if watchdog.shutdown_requested:
            raise SystemExit(EXIT_TERMINATED) from None
        if watchdog.is_lost(within=3.0):  # what went wrong here is only that the other one is gone
            raise SystemExit(1) from None
        raise
    else:
        watchdog.announce_exit()


def _stop_together(state: ShutdownState) -> None:
    request_shutdown()
    if not state.agreed:
        with suppress(RuntimeError):  # one was killed meanwhile: there is nobody left to wait for
            any_rank_stops(True)
    if state.watchdog is not None:
        state.watchdog.announce_exit()


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, object]:
    """Nested mappings as one of dotted keys."""
    found: dict[str, object] = {}
    for key, value in tree.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return found
