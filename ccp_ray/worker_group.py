"""Ray Train's worker processes, as pretraining needs them: SIGTERM is a notice, and every worker has the same share.

Import it only where Ray is running or about to: it imports Ray.
"""

from __future__ import annotations

import os
import socket
from typing import Any

import torch.distributed as dist
from ray.train.torch import TorchConfig

from ccp_ray.preemption import heed_sigterm

_RayBackend: Any = TorchConfig().backend_cls


class _Backend(_RayBackend):  # type: ignore[misc] # Ray has no types
    """Ray's process groups; and each worker's main thread, where Python takes signals, learns to heed SIGTERM."""

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        worker_group.execute(choose_interface)
        super().on_start(worker_group, backend_config)
        worker_group.execute(heed_sigterm)


class PreemptibleTorchConfig(TorchConfig):  # type: ignore[misc] # Ray has no types
    """torch.distributed as `TorchConfig` sets it up, in workers that heed SIGTERM."""

    @property
    def backend_cls(self) -> Any:
        return _Backend


def choose_interface() -> None:
    """Gloo shall listen where Ray does.

    By itself it listens at the address that the host's own name resolves to. On a Debian that is 127.0.1.1, and the
    workers of two hosts never find each other. What `GLOO_SOCKET_IFNAME` says already stands.
    """
    import psutil
    import ray.util

    address = ray.util.get_node_ip_address()
    for name, addresses in psutil.net_if_addrs().items():
        if any(item.address.partition("%")[0] == address for item in addresses):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)


def join_even_group(used: int) -> bool:
    """Go on with `used` workers; False for one that is left out. Collective over all that Ray started.

    An elastic Ray Train starts as many workers as the cluster has room for, and not all numbers can share a step's
    groups evenly. Those that can get a process group of their own; who is left out idles until the next restart.
    """
    world, rank, backend = dist.get_world_size(), dist.get_rank(), dist.get_backend()
    if used == world:
        return True
    place = [_free_address() if rank == 0 else ""]
    dist.broadcast_object_list(place, src=0)
    dist.destroy_process_group()
    if rank >= used:
        return False
    host, _, port = place[0].rpartition(":")
    os.environ |= {"WORLD_SIZE": str(used), "MASTER_ADDR": host, "MASTER_PORT": port}  # DeepSpeed reads these
    dist.init_process_group(backend, init_method="env://", rank=rank, world_size=used)
    return True


def _free_address() -> str:
    host = os.environ["MASTER_ADDR"]  # Ray Train's choice: this worker's node
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as sock:
        sock.bind(("", 0))
        return f"{host}:{sock.getsockname()[1]}"
