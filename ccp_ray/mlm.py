"""Masked language modelling beside the contrastive task, on sentences of its own.

15 % of the tokens are chosen: 80 % of them become the mask token, 10 % a random token, 10 % stay (Devlin et al.
2019). The vocabulary is scored at chosen positions only, which saves six sevenths of the head's work.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from ccp_ray.errors import UsageError

_HEADS = ("lm_head", "cls")  # the RoBERTa family (XLM-R) and the BERT family
IGNORED = -100


def masked_copy(
    ids_BT: NDArray[np.int64], special: set[int], mask_id: int, vocabulary: int, share: float, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Corrupted ids and labels (the original id where a token was chosen, else IGNORED), both [B, T]."""
    chosen_BT = (rng.random(ids_BT.shape) < share) & ~np.isin(ids_BT, list(special))
    how_BT = rng.random(ids_BT.shape)
    random_BT = rng.integers(vocabulary, size=ids_BT.shape)
    out_BT = np.where(chosen_BT & (how_BT < 0.8), mask_id, ids_BT)
    out_BT = np.where(chosen_BT & (how_BT >= 0.9), random_BT, out_BT)
    return out_BT, np.where(chosen_BT, ids_BT, IGNORED)


def prediction_head(model: Any) -> nn.Module:
    """The module that maps hidden states to vocabulary scores. Raises UsageError for an unknown family."""
    for name in _HEADS:
        if hasattr(model, name):
            return getattr(model, name)  # type: ignore[no-any-return]
    kind = getattr(model.config, "model_type", type(model).__name__)
    raise UsageError(f"mlm.weight: masked language modelling is not known for {kind!r} encoders; set mlm.weight=0")


def mlm_loss(head: nn.Module, hidden_BTD: torch.Tensor, labels_BT: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy over chosen tokens; 0, still part of the graph, where none was chosen."""
    chosen_BT = labels_BT != IGNORED
    scores_NV = head(hidden_BTD[chosen_BT])
    total: torch.Tensor = F.cross_entropy(scores_NV.float(), labels_BT[chosen_BT], reduction="sum")
    return total / chosen_BT.sum().clamp(min=1)
