"""What ranks tell each other around a step. Every function is collective: all ranks call it."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist


def gather_groups(own_G: torch.Tensor) -> torch.Tensor:
    """All ranks' groups, in group order: rank r holds groups r*G to r*G+G-1. Works on [G, ...] of any type."""
    parts = [torch.empty_like(own_G) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, own_G.contiguous())
    return torch.cat(parts)


def mean_over_ranks(metrics: dict[str, float], where: torch.device) -> dict[str, float]:
    """The mean of each metric; all ranks have the same names in the same order."""
    values = torch.tensor(list(metrics.values()), dtype=torch.float64, device=where)
    dist.all_reduce(values)
    return dict(zip(metrics, (values / dist.get_world_size()).tolist(), strict=True))


def gather_objects(own: Any) -> list[Any]:
    """Every rank's small object (pickled), by rank: for what is rare, such as errors and checkpoints."""
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, own)
    return gathered
