"""The loss of fine-tuning: each question must pick its passage among all passages of the global batch.

    loss = mean over questions b of  log sum_c exp(s(b, c) / t)  -  s(b, own) / t          c: not masked

s is the dot product (DPR), or the cosine. All sums run in fp32. The batch is small beside the encoder (2,048 questions
with 4,096 candidates of 768 dimensions are 39 GFLOP with gradients, an XLM-R base of as many texts 330,000), so every
rank computes the whole loss from everyone's vectors and takes the gradient of its own ones: the loss is the same bits
on all ranks, and no gradient need travel between them before the encoder's own.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch

Similarity = Literal["dot", "cosine"]


class RetrievalOutput(NamedTuple):
    """Loss and what is watched: that of guessing, share of questions whose passage wins, share of pairs masked.

    loss_B: of each question.
    """

    loss: torch.Tensor
    loss_B: torch.Tensor
    chance: torch.Tensor
    accuracy: torch.Tensor
    masked_share: torch.Tensor


def retrieval_loss(
    question_BD: torch.Tensor,
    candidate_CD: torch.Tensor,
    own_B: torch.Tensor,
    masked_BC: torch.Tensor,
    similarity: Similarity,
    temperature: float,
) -> RetrievalOutput:
    """own_B: the column of each question's passage. masked_BC: candidates that are no negatives of a question."""
    logits_BC = similarities(question_BD, candidate_CD, similarity) / temperature
    logits_BC = logits_BC.masked_fill(masked_BC, float("-inf"))
    loss_B = torch.nn.functional.cross_entropy(logits_BC, own_B, reduction="none")
    chance = (~masked_BC).sum(1).double().log().mean()
    accuracy = (logits_BC.argmax(1) == own_B).float().mean()
    return RetrievalOutput(loss_B.mean(), loss_B, chance, accuracy, masked_BC.float().mean())


def similarities(question_BD: torch.Tensor, candidate_CD: torch.Tensor, similarity: Similarity) -> torch.Tensor:
    """[B, C], of vectors as they come from the encoder."""
    if similarity == "cosine":
        question_BD, candidate_CD = (torch.nn.functional.normalize(side) for side in (question_BD, candidate_CD))
    return question_BD.float() @ candidate_CD.float().T
