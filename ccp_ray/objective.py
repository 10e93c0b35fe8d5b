"""The model that is trained: encoder, projection head and MLM head in one module, one group a forward pass.

A group's 2P sentences run as `chunks` parts of equal count and like length, which keeps padding low while every
rank makes the same number of passes (ZeRO 3 gathers parameters in each). Dropout is seeded by (seed, step, group), so
a group's result does not depend on which rank computes it or on what ran before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from ccp_ray.batching import Tokens, equal_chunks, pad
from ccp_ray.contexts import Pairs
from ccp_ray.encoder import pool
from ccp_ray.encoder_config import Pooling
from ccp_ray.head import ProjectionHead, Statistics
from ccp_ray.loss import Side
from ccp_ray.mlm import mlm_loss, prediction_head

Padded = tuple[torch.Tensor, torch.Tensor]


class MaskedBatch(NamedTuple):
    """Corrupted ids, attention mask, labels: [B, T] each."""

    ids_BT: torch.Tensor
    mask_BT: torch.Tensor
    labels_BT: torch.Tensor


class GroupBatch(NamedTuple):
    """One group as tensors. `order_N` puts the rows of the chunks back: centres, then contexts."""

    chunks: list[Padded]
    order_N: torch.Tensor
    centre_hashes_P: torch.Tensor
    context_hashes_P: torch.Tensor
    masked: MaskedBatch | None

    @property
    def tokens(self) -> tuple[int, int]:
        """(real, padded) tokens of the group."""
        masks = [mask for _, mask in self.chunks] + ([self.masked.mask_BT] if self.masked else [])
        return sum(int(mask.sum()) for mask in masks), sum(mask.numel() for mask in masks)

    def to(self, where: torch.device) -> GroupBatch:
        """The same on another device."""
        return GroupBatch(
            [(ids_BT.to(where), mask_BT.to(where)) for ids_BT, mask_BT in self.chunks],
            self.order_N.to(where),
            self.centre_hashes_P.to(where),
            self.context_hashes_P.to(where),
            MaskedBatch(*(tensor.to(where) for tensor in self.masked)) if self.masked else None,
        )


class GroupOutput(NamedTuple):
    """Both sides, the statistics of the side that was normalised by its batch, and the MLM loss."""

    centre: Side
    context: Side
    statistics: Statistics
    mlm: torch.Tensor


class CcpModel(nn.Module):
    """A Hugging Face masked language model with a projection head on its pooled sentence vectors.

    While `encoder_learns` is false the encoder and its MLM head run without gradients: a third of the work, and only
    the projection head's gradients count in the norm that is clipped.
    """

    encoder_learns = True

    def __init__(self, model: Any, pooling: Pooling, projection: int, with_mlm: bool) -> None:
        super().__init__()
        self.model = model
        self.pooling: Pooling = pooling
        self.head = ProjectionHead(int(model.config.hidden_size), projection)
        if with_mlm:
            prediction_head(model)  # fails here, before any work, where the family is unknown

    def forward(self, group: GroupBatch, running_side: int, running: Statistics | None) -> GroupOutput:
        """running_side: 0 if the centres are normalised by the running statistics, 1 if the contexts are."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.encoder_learns):
            vectors_NH = self.pooled(group.chunks)[group.order_N]
            mlm = self._mlm(group.masked, vectors_NH)
        halves = vectors_NH.chunk(2)
        fixed = [running if side == running_side else None for side in (0, 1)]
        (centre_PD, centre_stats), (context_PD, context_stats) = (
            self.head(half, statistics) for half, statistics in zip(halves, fixed, strict=True)
        )
        return GroupOutput(
            Side(centre_PD, group.centre_hashes_P),
            Side(context_PD, group.context_hashes_P),
            context_stats if running_side == 0 else centre_stats,
            mlm,
        )

    def pooled(self, chunks: Sequence[Padded]) -> torch.Tensor:
        """Sentence vectors [N, H] in the order of the chunks."""
        encoder = self.model.base_model
        parts = []
        for ids_BT, mask_BT in chunks:
            hidden_BTD = encoder(input_ids=ids_BT, attention_mask=mask_BT).last_hidden_state
            parts.append(pool(hidden_BTD, mask_BT, self.pooling))
        return torch.cat(parts)

    def _mlm(self, batch: MaskedBatch | None, like: torch.Tensor) -> torch.Tensor:
        if batch is None:
            return torch.zeros((), device=like.device)
        hidden_BTD = self.model.base_model(input_ids=batch.ids_BT, attention_mask=batch.mask_BT).last_hidden_state
        return mlm_loss(prediction_head(self.model), hidden_BTD, batch.labels_BT)


def collate(pairs: Pairs, masked: MaskedBatch | None, pad_id: int, chunks: int, where: torch.device) -> GroupBatch:
    """Pairs as padded tensors on the device."""
    rows = [*pairs.centres, *pairs.contexts]
    padded, order = pad_chunks(rows, pad_id, chunks, where)
    return GroupBatch(
        padded,
        order,
        torch.from_numpy(pairs.centre_hashes).to(where),
        torch.from_numpy(pairs.context_hashes).to(where),
        MaskedBatch(*(tensor.to(where) for tensor in masked)) if masked else None,
    )


def pad_chunks(
    rows: Sequence[Tokens], pad_id: int, chunks: int, where: torch.device
) -> tuple[list[Padded], torch.Tensor]:
    """Rows as padded chunks of like length, and the indices that restore their order."""
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    parts = equal_chunks(lengths, chunks)
    padded = []
    for part in parts:
        ids_BT, mask_BT = pad([rows[i] for i in part], pad_id)
        padded.append((torch.from_numpy(ids_BT).to(where), torch.from_numpy(mask_BT).to(where)))
    return padded, torch.from_numpy(np.argsort(np.concatenate(parts), kind="stable")).to(where)
