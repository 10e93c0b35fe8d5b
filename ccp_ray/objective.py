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
from ccp_ray.encoder_config import Pooling
from ccp_ray.head import ProjectionHead, Statistics
from ccp_ray.loss import Side
from ccp_ray.mlm import mlm_loss, prediction_head
from ccp_ray.pooling import pool
from ccp_ray.pretrain_config import HeadStart, Norm

Padded = tuple[torch.Tensor, torch.Tensor]
Projection = tuple[torch.Tensor, Statistics]


class MaskedBatch(NamedTuple):
    """Corrupted ids, attention mask, labels: [B, T] each."""

    ids_BT: torch.Tensor
    mask_BT: torch.Tensor
    labels_BT: torch.Tensor


class Sentences(NamedTuple):
    """Padded sentences in chunks of like length; `order_N` puts their rows back."""

    chunks: list[Padded]
    order_N: torch.Tensor


class GroupBatch(NamedTuple):
    """One group as tensors.

    chunks, order_N: the sentences that the model encodes: centres, then contexts; where a momentum encoder encodes the
    `keys`, the queries alone. tokens: (real, padded), counted on the host so that the device need not wait.
    """

    chunks: list[Padded]
    order_N: torch.Tensor
    centre_hashes_P: torch.Tensor
    context_hashes_P: torch.Tensor
    masked: MaskedBatch | None
    keys: Sentences | None
    tokens: tuple[int, int]


class KeySide(NamedTuple):
    """Key vectors [P, D] that a momentum encoder made, and the batch statistics of that side."""

    vectors_PD: torch.Tensor
    statistics: Statistics


class GroupOutput(NamedTuple):
    """Both sides, the statistics that the running ones learn from, and the MLM loss.

    They are of the side that is not the running side; where a momentum encoder makes the keys, of its own side.
    """

    centre: Side
    context: Side
    statistics: Statistics
    mlm: torch.Tensor


class CcpModel(nn.Module):
    """A Hugging Face masked language model with a projection head on its pooled sentence vectors."""

    def __init__(
        self,
        model: Any,
        pooling: Pooling | tuple[Pooling, ...],
        projection: int,
        with_mlm: bool,
        norm: Norm = "asymmetric",
        head_start: HeadStart = "random",
    ) -> None:
        super().__init__()
        self.model = model
        self.pooling = pooling
        self.head = ProjectionHead(int(model.config.hidden_size), projection, norm, head_start)
        if with_mlm:
            prediction_head(model)  # fails here, before any work, where the family is unknown

    @property
    def encoders(self) -> Sequence[Any]:
        return [self.model]

    def forward(
        self, group: GroupBatch, running_side: int, running: Statistics | None, keys: KeySide | None = None
    ) -> GroupOutput:
        """running_side: 0 if the centres are normalised by the running statistics, 1 if the contexts are.

        running: None if there are none (another norm than `asymmetric`, or the first step).
        keys: that side, where a momentum encoder made it; the group then holds the other side's sentences only.
        """
        vectors_NH = self.pooled(group.chunks)[group.order_N]
        if keys is not None:
            query_PD, _ = self.head(vectors_NH, None)
            centre_PD, context_PD = (keys.vectors_PD if side == running_side else query_PD for side in (0, 1))
            return GroupOutput(
                Side(centre_PD, group.centre_hashes_P),
                Side(context_PD, group.context_hashes_P),
                keys.statistics,
                self._mlm(group.masked, vectors_NH),
            )
        centre_PH, context_PH = vectors_NH.chunk(2)
        sides = self.project(centre_PH, context_PH, running_side, running)
        (centre_PD, centre_stats), (context_PD, context_stats) = sides
        return GroupOutput(
            Side(centre_PD, group.centre_hashes_P),
            Side(context_PD, group.context_hashes_P),
            context_stats if running_side == 0 else centre_stats,
            self._mlm(group.masked, vectors_NH),
        )

    def project(
        self, centre_PH: torch.Tensor, context_PH: torch.Tensor, running_side: int, running: Statistics | None
    ) -> tuple[Projection, Projection]:
        """Both sides through the head, each with the statistics of its role: (unit vectors, the side's own)."""
        centre_fixed, context_fixed = (running if side == running_side else None for side in (0, 1))
        return self.head(centre_PH, centre_fixed), self.head(context_PH, context_fixed)

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


def collate(
    pairs: Pairs,
    masked: MaskedBatch | None,
    pad_id: int,
    chunks: int,
    where: torch.device,
    key_side: int | None = None,
) -> GroupBatch:
    """Pairs as padded tensors on the device. key_side: 0 or 1 to set centres or contexts apart as `keys`.

    Then queries and keys have half of the chunks each, so that passes are as large as without.
    """
    sides = [pairs.centres, pairs.contexts]
    keys = None
    if key_side is not None:
        chunks = max(1, chunks // 2)
        keys = Sentences(*pad_chunks(sides.pop(key_side), pad_id, chunks, where))
    encoded = Sentences(*pad_chunks([row for side in sides for row in side], pad_id, chunks, where))
    real = sum(len(row) for row in [*pairs.centres, *pairs.contexts]) + (int(masked.mask_BT.sum()) if masked else 0)
    matrices = [ids_BT for ids_BT, _ in [*encoded.chunks, *(keys.chunks if keys else [])]]
    return GroupBatch(
        *encoded,
        torch.from_numpy(pairs.centre_hashes).to(where),
        torch.from_numpy(pairs.context_hashes).to(where),
        MaskedBatch(*(tensor.to(where) for tensor in masked)) if masked else None,
        keys,
        (real, sum(ids.numel() for ids in [*matrices, *([masked.ids_BT] if masked else [])])),
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
