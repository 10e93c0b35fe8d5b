"""Bidirectional InfoNCE over a group and its language's bank.

For each centre the true context must be picked among the group's contexts, and the reverse. Bank keys join only the
direction whose keys took the running statistics, because they were made that way too. A positive must not be told
from a bank negative by how it was computed: otherwise the loss falls by that shortcut and retrieval does not rise.

Candidates with the hash of the row's own centre or context are the same sentence, not negatives: they are masked.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F

from ccp_ray.bank import Negatives


class Side(NamedTuple):
    """One side of the pairs: unit vectors [P, D] and sentence hashes [P]."""

    vectors_PD: torch.Tensor
    hashes_P: torch.Tensor


class ContrastiveOutput(NamedTuple):
    """Mean loss over both directions, and what the monitor watches (detached scalars)."""

    loss: torch.Tensor
    accuracy: torch.Tensor
    masked_share: torch.Tensor
    staleness_gap: torch.Tensor


def bidirectional_info_nce(
    centre: Side, context: Side, bank: Negatives | None, running_side: int, temperature: float
) -> ContrastiveOutput:
    """running_side: 0 if the centres used the running statistics, 1 if the contexts did.

    The bank serves the direction whose keys are that side, also where the head keeps no running statistics (another
    norm than `asymmetric`). accuracy: how often the true partner wins within the group. staleness_gap: mean similarity
    of queries to in-group negatives minus that to bank negatives, 0 without bank.
    """
    keys, queries = (centre, context) if running_side == 0 else (context, centre)
    with_bank, in_group_PP, duplicate_PP, in_bank_PM, duplicate_PM = _direction(queries, keys, bank, temperature)
    without, reverse_PP, _, _, _ = _direction(keys, queries, None, temperature)
    truth_P = torch.arange(len(in_group_PP), device=in_group_PP.device)
    correct = ((in_group_PP.argmax(1) == truth_P).float() + (reverse_PP.argmax(1) == truth_P).float()).mean() / 2
    masked = torch.cat([duplicate_PP, duplicate_PM], dim=1).float().mean()
    gap = _staleness_gap(in_group_PP, duplicate_PP, in_bank_PM, duplicate_PM) * temperature
    return ContrastiveOutput((with_bank + without) / 2, correct, masked, gap)


def _direction(
    queries: Side, keys: Side, bank: Negatives | None, temperature: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    in_group_PP = queries.vectors_PD @ keys.vectors_PD.T / temperature
    duplicate_PP = _same(keys.hashes_P, queries.hashes_P, keys.hashes_P)
    duplicate_PP.fill_diagonal_(False)  # the positive stays, whatever its hash
    if bank is None:
        in_bank_PM = in_group_PP[:, :0]
        duplicate_PM = duplicate_PP[:, :0]
    else:
        in_bank_PM = queries.vectors_PD @ bank.keys_MD.T / temperature
        duplicate_PM = _same(bank.hashes_M, queries.hashes_P, keys.hashes_P)
    logits = torch.cat([in_group_PP, in_bank_PM], dim=1)
    logits = logits.masked_fill(torch.cat([duplicate_PP, duplicate_PM], dim=1), float("-inf"))
    truth_P = torch.arange(len(logits), device=logits.device)
    rivals_PP = in_group_PP.detach().masked_fill(duplicate_PP, float("-inf"))  # a second copy beats no partner
    return F.cross_entropy(logits, truth_P), rivals_PP, duplicate_PP, in_bank_PM.detach(), duplicate_PM


def _same(candidates_C: torch.Tensor, query_P: torch.Tensor, key_P: torch.Tensor) -> torch.Tensor:
    """[P, C]: the candidate is the row's query sentence or its positive."""
    return (candidates_C == query_P[:, None]) | (candidates_C == key_P[:, None])


def _staleness_gap(
    in_group_PP: torch.Tensor, duplicate_PP: torch.Tensor, in_bank_PM: torch.Tensor, duplicate_PM: torch.Tensor
) -> torch.Tensor:
    negative_PP = ~duplicate_PP & ~torch.eye(len(in_group_PP), dtype=torch.bool, device=in_group_PP.device)
    if in_bank_PM.shape[1] == 0 or not bool(negative_PP.any()) or bool(duplicate_PM.all()):
        return in_group_PP.new_zeros(())
    return in_group_PP[negative_PP].mean() - in_bank_PM[~duplicate_PM].mean()
