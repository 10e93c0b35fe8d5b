"""What ranks tell each other around a step. Every function is collective: all ranks call it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from ccp_ray.errors import CcpError, carry, raise_carried

Result = TypeVar("Result")


def gather_groups(own: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """All ranks' groups, in group order: rank r holds groups r*G to r*G+G-1. Works on [G, ...] of any types.

    All travel as bytes in one collective: over many ranks the latency of each message counts as much as its bytes.
    """
    rows = [tensor.contiguous().view(len(tensor), -1).view(torch.uint8) for tensor in own.values()]
    own_GB = torch.cat(rows, dim=1)
    parts = [torch.empty_like(own_GB) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, own_GB)
    columns = torch.split(torch.cat(parts), [row.shape[1] for row in rows], dim=1)
    return {
        # A copy: its bytes begin where its type may begin, which those of a single row's column need not.
        name: column.clone(memory_format=torch.contiguous_format).view(tensor.dtype).view(-1, *tensor.shape[1:])
        for (name, tensor), column in zip(own.items(), columns, strict=True)
    }


def exchange_rows(rows_W: torch.Tensor) -> torch.Tensor:
    """Row r [...] of each rank's tensor goes to rank r; returns what the ranks sent here, in their order [W, ...]."""
    received_W = torch.empty_like(rows_W)
    dist.all_to_all_single(received_W, rows_W.contiguous())
    return received_W


def gather_to_first(own: torch.Tensor) -> list[torch.Tensor] | None:
    """All ranks' tensors, of one shape and type, on rank 0; None on the others."""
    parts = [torch.empty_like(own) for _ in range(dist.get_world_size())] if dist.get_rank() == 0 else None
    dist.gather(own.contiguous(), parts, dst=0)
    return parts


def gather_objects(own: Any) -> list[Any]:
    """Every rank's small object, in rank order."""
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, own)
    return gathered


def on_first(work: Callable[[], Result]) -> Result:
    """What `work` gives on rank 0, on all ranks. A CcpError of it is raised on all: none waits for one that failed."""
    told: list[Any] = [None, ""]
    if dist.get_rank() == 0:
        try:
            told[0] = work()
        except CcpError as error:
            told[1] = carry(error)
    dist.broadcast_object_list(told, src=0)
    raise_carried(told[1])
    result: Result = told[0]
    return result


def mean_over_ranks(metrics: Mapping[str, torch.Tensor]) -> dict[str, float]:
    """The mean of each metric, [G] or a scalar, over all ranks' groups; all have the same names in the same order.

    Numbers leave the device here, once a step.
    """
    values_M = torch.stack([values_G.double().mean() for values_G in metrics.values()])
    dist.all_reduce(values_M)
    return dict(zip(metrics, (values_M / dist.get_world_size()).tolist(), strict=True))
