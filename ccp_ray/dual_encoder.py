"""The module that fine-tuning trains: one encoder for both sides, or one for questions and one for passages.

Each rank makes the same number of forward passes a group (ZeRO 3 gathers parameters in each): one of the questions, and
`chunks` of the passages, sorted by length so that little is padded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from ccp_ray.batching import Tokens
from ccp_ray.encoder import Encoder
from ccp_ray.objective import Padded, Sentences, pad_chunks
from ccp_ray.pooling import pool

Side = str  # "question" or "passage"
SIDES: tuple[Side, Side] = ("question", "passage")


class PairGroup(NamedTuple):
    """A group's texts as padded tensors: P questions, P x (1+n) passages. tokens: (real, padded)."""

    question: Sentences
    passage: Sentences
    tokens: tuple[int, int]


class PairVectors(NamedTuple):
    """Vectors in fp32: questions [P, D], passages [P x (1+n), D]."""

    question_PD: torch.Tensor
    passage_ND: torch.Tensor


class DualEncoder(nn.Module):
    """`models` by role: "encoder" for both sides, or "question" and "passage"."""

    def __init__(self, encoders: Mapping[str, Encoder]) -> None:
        super().__init__()
        self.models = nn.ModuleDict({role: encoder.model for role, encoder in encoders.items()})
        self._pooling = {role: encoder.pooling for role, encoder in encoders.items()}
        self._role = {side: side if side in encoders else "encoder" for side in SIDES}

    @property
    def encoders(self) -> Sequence[Any]:
        return list(self.models.values())

    def forward(self, group: PairGroup) -> PairVectors:
        return PairVectors(self.encode("question", group.question), self.encode("passage", group.passage))

    def encode(self, side: Side, texts: Sentences) -> torch.Tensor:
        """Vectors [N, D] of one side's texts, in fp32 and in their order."""
        return torch.cat([self._pass(side, chunk) for chunk in texts.chunks])[texts.order_N]

    def _pass(self, side: Side, chunk: Padded) -> torch.Tensor:
        role, (ids_BT, mask_BT) = self._role[side], chunk
        hidden_BTD = self.models[role](input_ids=ids_BT, attention_mask=mask_BT).last_hidden_state
        return pool(hidden_BTD, mask_BT, self._pooling[role]).float()


def collate_pairs(
    questions: Sequence[Tokens], passages: Sequence[Tokens], pads: tuple[int, int], chunks: int, where: torch.device
) -> PairGroup:
    """A group on the device. pads: the padding token of either side. chunks: of the passages."""
    question = Sentences(*pad_chunks(questions, pads[0], 1, where))
    passage = Sentences(*pad_chunks(passages, pads[1], chunks, where))
    padded = sum(ids_BT.numel() for side in (question, passage) for ids_BT, _ in side.chunks)
    return PairGroup(question, passage, (sum(map(len, [*questions, *passages])), padded))
