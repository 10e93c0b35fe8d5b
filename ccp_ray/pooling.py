"""From token vectors to one vector a text: the six poolings of sentence-transformers.

Sums run in fp32 whatever the model's precision: in bf16 a mean over 64 tokens would lose its last two of eight bits.
Rows are padded on the right. Definitions:
https://sbert.net/docs/package_reference/sentence_transformer/modules.html
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from ccp_ray.encoder_config import Pooling


def pool(hidden_BTD: torch.Tensor, mask_BT: torch.Tensor, pooling: Pooling | tuple[Pooling, ...]) -> torch.Tensor:
    """Pooled vectors [B, D] in the type of hidden_BTD; of several poolings side by side [B, poolings x D]."""
    modes = (pooling,) if isinstance(pooling, str) else pooling
    parts = [_POOLS[mode](hidden_BTD, mask_BT).to(hidden_BTD.dtype) for mode in modes]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _first(hidden_BTD: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    return hidden_BTD[:, 0]


def _last(hidden_BTD: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
    rows_B = torch.arange(len(hidden_BTD), device=hidden_BTD.device)
    return hidden_BTD[rows_B, mask_BT.sum(1) - 1]


def _largest(hidden_BTD: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
    return hidden_BTD.masked_fill(mask_BT.unsqueeze(-1) == 0, -torch.inf).amax(1)


def _mean(hidden_BTD: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
    total_BD, count_B1 = _weighted(hidden_BTD, mask_BT)
    return total_BD / count_B1


def _mean_by_root(hidden_BTD: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
    total_BD, count_B1 = _weighted(hidden_BTD, mask_BT)
    return total_BD / count_B1.sqrt()


def _mean_by_position(hidden_BTD: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
    """Token t weighs t: in a causal model the later ones have seen more."""
    total_BD, weight_B1 = _weighted(hidden_BTD.float(), mask_BT * mask_BT.cumsum(1))
    return total_BD / weight_B1


def _weighted(hidden_BTD: torch.Tensor, weights_BT: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Weighted sum [B, D] and sum of weights [B, 1]."""
    weights_BT1 = weights_BT.unsqueeze(-1).to(hidden_BTD.dtype)
    total_BD = (hidden_BTD * weights_BT1).sum(1, dtype=torch.float32)
    return total_BD, weights_BT1.sum(1, dtype=torch.float32).clamp(min=1)


_POOLS: dict[Pooling, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "cls": _first,
    "max": _largest,
    "mean": _mean,
    "mean_sqrt_len_tokens": _mean_by_root,
    "weightedmean": _mean_by_position,
    "lasttoken": _last,
}
