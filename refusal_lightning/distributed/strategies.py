"""Lightning strategies: how the processes of a run find each other, and which devices each one has."""

from __future__ import annotations

import os
import socket
from datetime import timedelta
from typing import Any

import psutil
import torch
from lightning.pytorch.strategies import DDPStrategy

from refusal_lightning.distributed.process_group import barrier
from refusal_lightning.errors import UserError

JOIN = timedelta(minutes=10)
"""How long the first process waits for the others to start."""


class ReplicaStrategy(DDPStrategy):
    """`ddp`: one replica of the model, and one process, per device.

    The processes only wait for each other and pass small objects, so they speak over gloo on GPUs too: NCCL would take
    GPU memory, and where a process dies it leaves the others waiting, while gloo's connections break at once.
    ``timeout`` is the longest wait for the slowest process; those that never start are missed after ``JOIN``.
    """

    def __init__(self, timeout: timedelta, **arguments: Any) -> None:
        super().__init__(process_group_backend="gloo", timeout=timeout, **arguments)

    def setup_distributed(self) -> None:
        self.set_world_ranks()
        self._process_group_backend = "gloo"
        if torch.distributed.is_initialized():
            return
        environment = self.cluster_environment
        assert environment is not None and self._timeout is not None
        host, port = environment.main_address, environment.main_port
        if self.num_nodes > 1 and "GLOO_SOCKET_IFNAME" not in os.environ and (name := interface_towards(host)):
            os.environ["GLOO_SOCKET_IFNAME"] = name
        os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = host, str(port)
        try:
            met = torch.distributed.rendezvous("env://", self.global_rank, self.world_size, timeout=JOIN)
            store, _, _ = next(met)
        except RuntimeError as error:
            raise UserError(
                f"the {self.world_size} processes of this run did not find each other at {host}:{port} within "
                f"{JOIN.seconds // 60} minutes; look for one that did not start, and check MASTER_ADDR and MASTER_PORT "
                f"({' '.join(str(error).split())[:200]})"
            ) from error
        torch.distributed.init_process_group(
            "gloo", store=store, rank=self.global_rank, world_size=self.world_size, timeout=self._timeout
        )

    def barrier(self, *args: Any, **kwargs: Any) -> None:
        barrier()


class DeviceMapStrategy(ReplicaStrategy):
    """`device_map`: one process per node, with one replica of the model over all the devices of that node."""

    @property
    def num_processes(self) -> int:
        return 1

    @property
    def root_device(self) -> torch.device:
        assert self.parallel_devices
        return self.parallel_devices[0]


def interface_towards(host: str) -> str | None:
    """The network interface by which a host is reached, or None: gloo takes the one that this machine's own name
    leads to, which is often the loopback."""
    try:
        kind, _, _, _, address = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(kind, socket.SOCK_DGRAM) as probe:
            probe.connect(address)  # sends nothing: the system only chooses the way
            own = probe.getsockname()[0]
    except OSError:
        return None
    for name, addresses in psutil.net_if_addrs().items():
        if any(entry.address == own for entry in addresses):
            return name
    return None
