"""Bidirectional InfoNCE over a group and its language's bank.

For each centre the true context must be picked among the group's contexts, and the reverse. Bank keys join only the
direction whose keys took the running statistics, because they were made that way too. A positive must not be told
from a bank negative by how it was computed: otherwise the loss falls by that shortcut and retrieval does not rise.

Candidates with the hash of the row's own centre or context are the same sentence, not negatives: they are masked.
The bank comes as its log-sum-exp (`bank_term`), so the loss is the same wherever its keys are.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from ccp_ray.bank_term import BankTerm


class Side(NamedTuple):
    """One side of the pairs: unit vectors [P, D] and sentence hashes [P]."""

    vectors_PD: torch.Tensor
    hashes_P: torch.Tensor


class ContrastiveOutput(NamedTuple):
    """Mean loss over the directions trained, and what the monitor watches (detached scalars)."""

    loss: torch.Tensor
    accuracy: torch.Tensor
    masked_share: torch.Tensor
    bank_masked_share: torch.Tensor
    staleness_gap: torch.Tensor


class _Direction(NamedTuple):
    """One direction's loss; similarities [P, P] and which of them are masked as duplicates, without a graph."""

    loss: torch.Tensor
    similarity_PP: torch.Tensor
    duplicate_PP: torch.Tensor

    def accuracy(self) -> torch.Tensor:
        """How often the true partner wins within the group; a second copy beats no partner."""
        rivals_PP = self.similarity_PP.masked_fill(self.duplicate_PP, float("-inf"))
        truth_P = torch.arange(len(rivals_PP), device=rivals_PP.device)
        return (rivals_PP.argmax(1) == truth_P).float().mean()


def bidirectional_info_nce(
    centre: Side,
    context: Side,
    bank: BankTerm | None,
    running_side: int,
    temperature: float,
    *,
    both: bool = True,
) -> ContrastiveOutput:
    """running_side: 0 if the centres used the running statistics, 1 if the contexts did; that side gives the keys, also
    where the head keeps no running statistics (another norm than `asymmetric`).

    bank: the term of the other side's vectors as queries. both: train the reverse direction too; not where the keys
    come from a momentum encoder, which is not trained.
    masked_share: of the query-key pairs, in group and bank, that are duplicates. staleness_gap: mean similarity of
    queries to in-group negatives minus that to bank negatives, 0 without bank.
    """
    keys, queries = (centre, context) if running_side == 0 else (context, centre)
    directions = [_direction(queries, keys, bank, temperature)]
    if both:
        directions.append(_direction(keys, queries, None, temperature))
    first = directions[0]
    loss, accuracy = (
        torch.stack(values).mean() for values in ([d.loss for d in directions], [d.accuracy() for d in directions])
    )
    group_masked, group_pairs = first.duplicate_PP.sum(), first.duplicate_PP.numel()
    if bank is None:
        none = torch.zeros_like(accuracy)
        return ContrastiveOutput(loss, accuracy, group_masked / group_pairs, none, none)
    bank_pairs = bank.masked + bank.counted
    return ContrastiveOutput(
        loss,
        accuracy,
        (group_masked + bank.masked) / (group_pairs + bank_pairs),
        bank.masked / bank_pairs.clamp(min=1),
        _staleness_gap(first, bank),
    )


def _direction(queries: Side, keys: Side, bank: BankTerm | None, temperature: float) -> _Direction:
    logits_PP = queries.vectors_PD @ keys.vectors_PD.T / temperature
    duplicate_PP = (keys.hashes_P == queries.hashes_P[:, None]) | (keys.hashes_P == keys.hashes_P[:, None])
    duplicate_PP.fill_diagonal_(False)  # the positive stays, whatever its hash
    lse_P = logits_PP.masked_fill(duplicate_PP, float("-inf")).logsumexp(1)
    if bank is not None:
        lse_P = torch.logaddexp(lse_P, bank.lse_P)
    return _Direction((lse_P - logits_PP.diagonal()).mean(), logits_PP.detach() * temperature, duplicate_PP)


def _staleness_gap(direction: _Direction, bank: BankTerm) -> torch.Tensor:
    own_PP = torch.eye(len(direction.similarity_PP), dtype=torch.bool, device=direction.similarity_PP.device)
    negative_PP = ~direction.duplicate_PP & ~own_PP
    count = negative_PP.sum()
    in_group = (direction.similarity_PP * negative_PP).sum() / count.clamp(min=1)
    return torch.where((count > 0) & (bank.counted > 0), in_group - bank.similarity, 0)
