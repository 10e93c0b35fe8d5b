"""A few DeepSpeed steps of a tiny model on random tokens, as a rank of a process group: real engines, no corpus."""

from __future__ import annotations

from typing import Any

import tiny_models
import torch
import torch.distributed as dist

from ccp_ray.encoder import new_model
from ccp_ray.engine import start_engine
from ccp_ray.head import Statistics
from ccp_ray.objective import CcpModel, GroupBatch, MaskedBatch
from ccp_ray.pretrain_config import DeepSpeedConfig, OptimizerConfig, PretrainConfig

GROUPS = 4


def engine(world: int, stage: int, precision: Any = "fp32", hidden: int = 16) -> Any:
    config = PretrainConfig(
        groups_per_step=GROUPS,
        deepspeed=DeepSpeedConfig(zero_stage=stage, precision=precision),  # type: ignore[arg-type]
        optimizer=OptimizerConfig(lr=1e-2),
    )
    torch.manual_seed(0)
    made = new_model(tiny_models.architecture(hidden=hidden), tiny_models.tokenizer(), 0)
    return start_engine(CcpModel(made, "cls", 7, with_mlm=True), config, world)  # 7: no world size divides it


def train(made: Any, first: int, steps: int) -> list[float]:
    """Losses of steps `first` to `first + steps`, each a function of its number alone."""
    rank, world = dist.get_rank(), dist.get_world_size()
    losses = []
    for step in range(first, first + steps):
        total = torch.zeros((), dtype=torch.float64)
        for group in range(rank * GROUPS // world, (rank + 1) * GROUPS // world):
            loss = _loss(made, step, group)
            made.backward(loss)
            made.step()
            total += loss.item() / GROUPS
        dist.all_reduce(total)
        losses.append(total.item())
    return losses


def _loss(made: Any, step: int, group: int) -> torch.Tensor:
    random = torch.Generator().manual_seed(100 * step + group)
    ids_BT = torch.randint(4, 30, (6, 10), generator=random)
    mask_BT = torch.ones_like(ids_BT)
    batch = GroupBatch(
        [(ids_BT, mask_BT)],
        torch.arange(6),
        torch.arange(3),
        torch.arange(3, 6),
        MaskedBatch(ids_BT, mask_BT, ids_BT.clone()),
    )
    output = made(batch, 0, Statistics(torch.zeros(7), torch.ones(7)))
    return output.mlm + output.centre.vectors_PD[:, 0].square().mean() + output.context.vectors_PD[:, 1].mean()  # type: ignore[no-any-return]
