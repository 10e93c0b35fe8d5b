"""What ranks tell each other: values survive being packed as bytes, whatever their types and odd sizes."""

from __future__ import annotations

import pytest
import torch
from ranks import run_ranks

from ccp_ray.collectives import gather_groups


def own(rank: int, groups: int) -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(rank)
    return {
        "keys": torch.randn(groups, 5, 7, generator=rng).to(torch.bfloat16),
        "hashes": torch.randint(-(2**62), 2**62, (groups, 5), generator=rng),
        "statistics": torch.randn(groups, 2, 3, generator=rng),
        "code": torch.arange(groups) + 100 * rank,
    }


def _gathered(rank: int, world: int, groups: int) -> dict[str, torch.Tensor]:
    return gather_groups(own(rank, groups))


@pytest.mark.parametrize(("world", "groups"), [(1, 1), (1, 2), (2, 1), (2, 3)])
def test_all_ranks_have_all_groups_in_order_bit_for_bit(world: int, groups: int) -> None:
    everyones = [own(rank, groups) for rank in range(world)]
    for got in run_ranks(world, _gathered, groups):
        assert got.keys() == everyones[0].keys()
        for name, tensor in got.items():
            assert torch.equal(tensor, torch.cat([each[name] for each in everyones])), name
