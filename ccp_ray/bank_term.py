"""What a bank adds to a group's loss: the log-sum-exp of its keys' logits, for whole and for sharded banks.

Each shard of a language's ring gives, for every query, a row: the log-sum-exp of its logits, the mean of its keys under
their softmax, and counts. Rows of shards combine exactly (the streaming softmax of Milakov and Gimelshein 2018,
arXiv 1805.02867): lse = log sum_s exp(lse_s), mean = sum_s exp(lse_s - lse) mean_s. The gradient of lse is
mean / temperature, so it is known after the forward pass: backward needs no key, and no communication.

Whole banks are one shard: both placements share this code. Sharded, a group costs one gather of the ranks' queries
(every rank has one group at that moment, each of its own language) and one all-to-all of the rows: about
2 W P (4 D + 20) bytes a rank. Keys never travel.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable

from ccp_ray.bank import LanguageBanks, Slots
from ccp_ray.collectives import exchange_rows, gather_groups

_COUNTS = 6  # columns of a row after the mean key: log-sum-exp, four sums over its keys, the keys that count


class BankTerm(NamedTuple):
    """The bank's side of a direction. Scalars carry no graph.

    lse_P: log-sum-exp of the logits that count; -inf where there is none. counted, masked: query-key pairs that count,
    and that are masked as duplicates. similarity: mean over those counted. used: keys young enough; age: their mean.
    """

    lse_P: torch.Tensor
    counted: torch.Tensor
    masked: torch.Tensor
    similarity: torch.Tensor
    used: torch.Tensor
    age: torch.Tensor


def bank_term(
    banks: LanguageBanks, lang: str, queries_PD: torch.Tensor, hashes_2P: torch.Tensor, step: int, temperature: float
) -> BankTerm:
    """The term of a group's queries against its language's bank. Collective if the banks are sharded.

    hashes_2P: of each query's own sentence and of its partner; keys with either are no negatives.
    """
    code_1 = torch.tensor([banks.codes[lang]], device=banks.device)
    with torch.no_grad():
        if banks.shard.ranks == 1:
            slots = banks.slots(code_1, step)
            rows_SPC = shard_rows(slots, queries_PD[None], hashes_2P[None], temperature)
        else:
            own = {"code": code_1, "hashes": hashes_2P[None], "queries": queries_PD.detach()[None]}
            asked = gather_groups(own)
            slots = banks.slots(asked["code"], step)
            rows_BPC = shard_rows(slots, asked["queries"], asked["hashes"], temperature)
            rows_SPC = exchange_rows(rows_BPC)
    return combine(rows_SPC, queries_PD, temperature)


def shard_rows(slots: Slots, queries_BPD: torch.Tensor, hashes_B2P: torch.Tensor, temperature: float) -> torch.Tensor:
    """One shard's rows [B, P, D + 6] for B groups of P queries, each against its own ring of `slots`."""
    keys_BKD = slots.keys_BKD.to(queries_BPD.dtype)
    logits_BPK = queries_BPD @ keys_BKD.mT / temperature
    candidates_B1K, usable_B1K = slots.hashes_BK[:, None], slots.usable_BK[:, None]
    own_BP1, partner_BP1 = hashes_B2P[..., None].unbind(1)
    duplicate_BPK = (candidates_B1K == own_BP1) | (candidates_B1K == partner_BP1)
    counted_BPK, masked_BPK = usable_B1K & ~duplicate_BPK, usable_B1K & duplicate_BPK
    similarity_BP = (logits_BPK * counted_BPK).sum(2) * temperature
    logits_BPK = logits_BPK.masked_fill(~counted_BPK, float("-inf"))
    lse_BP = logits_BPK.logsumexp(2)
    weights_BPK = torch.exp(logits_BPK - _finite(lse_BP)[..., None])
    used_B = slots.usable_BK.sum(1)
    age_B = (slots.ages_BK * slots.usable_BK).sum(1)
    sums = (counted_BPK.sum(2), masked_BPK.sum(2), similarity_BP, _each(age_B, lse_BP), _each(used_B, lse_BP))
    counts_BPS = torch.stack([lse_BP, *(column.to(lse_BP) for column in sums)], dim=2)
    return torch.cat([weights_BPK @ keys_BKD, counts_BPS], dim=2)


def combine(rows_SPC: torch.Tensor, queries_PD: torch.Tensor, temperature: float) -> BankTerm:
    """The term of a group from its rows on all shards; gradients go to the queries."""
    means_SPD, (lse_SP, *sums) = rows_SPC[..., :-_COUNTS], rows_SPC[..., -_COUNTS:].unbind(2)
    lse_P = lse_SP.logsumexp(0)
    shares_SP = torch.exp(lse_SP - _finite(lse_P))
    mean_PD = (shares_SP[..., None] * means_SPD).sum(0)
    counted, masked, similarity = (column_SP.sum() for column_SP in sums[:3])
    age, used = (column_SP[:, 0].sum() for column_SP in sums[3:])  # the same in every row of a shard
    graph_P: torch.Tensor = _LogSumExp.apply(queries_PD, lse_P, mean_PD / temperature)  # type: ignore[no-untyped-call]
    return BankTerm(
        graph_P,
        counted,
        masked,
        similarity / counted.clamp(min=1),
        used,
        age / used.clamp(min=1),
    )


class _LogSumExp(torch.autograd.Function):
    """A log-sum-exp computed elsewhere, with its gradient by the queries."""

    @staticmethod
    def forward(ctx: Any, _queries_PD: torch.Tensor, lse_P: torch.Tensor, slope_PD: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(slope_PD)
        return lse_P.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_P: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (slope_PD,) = ctx.saved_tensors
        return gradient_P[:, None] * slope_PD, None, None


def _finite(lse: torch.Tensor) -> torch.Tensor:
    """0 for -inf, which has no key to weigh: -inf minus -inf would be NaN."""
    return lse.masked_fill(lse == float("-inf"), 0)


def _each(value_B: torch.Tensor, like_BP: torch.Tensor) -> torch.Tensor:
    return value_B[:, None].expand_as(like_BP)
