"""The bank's side of the loss: against autograd over all keys at once, finite differences, and split at will."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ccp_ray.bank import LanguageBanks, Slots
from ccp_ray.bank_term import BankTerm, bank_term, combine, shard_rows
from ccp_ray.pretrain_config import BankConfig

TEMPERATURE = 0.1


def unit(*shape, seed):
    made = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.normalize(made, dim=-1)


def ring(count, kinds, seed, dimensions=5) -> Slots:
    """A ring of `count` slots with few kinds of sentences, some of them not to be used."""
    rng = torch.Generator().manual_seed(seed)
    hashes_1K = torch.randint(kinds, (1, count), generator=rng)
    ages_1K = torch.randint(1, 6, (1, count), generator=rng)
    usable_1K = torch.rand(1, count, generator=rng) < 0.7
    return Slots(unit(1, count, dimensions, seed=seed), hashes_1K, ages_1K, usable_1K)


def split(slots: Slots, ranks: int) -> list[Slots]:
    return [Slots(*(tensor[:, rank::ranks] for tensor in slots)) for rank in range(ranks)]


def term(parts, queries_PD, hashes_2P, temperature=TEMPERATURE) -> BankTerm:
    with torch.no_grad():
        rows_SPC = torch.cat([shard_rows(part, queries_PD[None], hashes_2P[None], temperature) for part in parts])
    return combine(rows_SPC, queries_PD, temperature)


def counts(slots, hashes_2P):
    """[P, K]: which keys are used, and which of them are duplicates of the row's pair."""
    same_PK = (slots.hashes_BK[0] == hashes_2P[0, :, None]) | (slots.hashes_BK[0] == hashes_2P[1, :, None])
    return slots.usable_BK[0].expand_as(same_PK), same_PK


@given(
    st.integers(1, 6), st.integers(1, 20), st.integers(1, 30), st.integers(1, 4), st.integers(0, 10**6),
    st.sampled_from([0.05, 1.0]),
)  # fmt: skip
def test_any_split_gives_what_autograd_gives_over_all_keys(pairs, count, kinds, ranks, seed, temperature):
    slots = ring(count, kinds, seed)
    hashes_2P = torch.randint(kinds, (2, pairs), generator=torch.Generator().manual_seed(seed))
    queries_PD = unit(pairs, 5, seed=seed + 1).requires_grad_()
    used_PK, same_PK = counts(slots, hashes_2P)
    similarity_PK = queries_PD @ slots.keys_BKD[0].T
    expected_P = (similarity_PK / temperature).masked_fill(~used_PK | same_PK, float("-inf")).logsumexp(1)
    got = term(split(slots, ranks), queries_PD, hashes_2P, temperature)
    torch.testing.assert_close(got.lse_P, expected_P)
    some_P = expected_P.isfinite()
    slope_P = torch.linspace(-1, 2, pairs, dtype=torch.float64)
    sums = ((x[some_P] * slope_P[some_P]).sum() for x in (expected_P, got.lse_P))
    expected_PD, got_PD = (torch.autograd.grad(x, queries_PD)[0] for x in sums)
    torch.testing.assert_close(got_PD[some_P], expected_PD[some_P])
    assert not got_PD[~some_P].any()
    counted_PK = used_PK & ~same_PK
    assert got.counted == counted_PK.sum()
    assert got.masked == (used_PK & same_PK).sum()
    assert got.used == slots.usable_BK.sum()
    if counted_PK.any():
        torch.testing.assert_close(got.similarity, similarity_PK[counted_PK].mean().detach())
    if slots.usable_BK.any():
        torch.testing.assert_close(got.age, slots.ages_BK[slots.usable_BK].double().mean())
    assert not any(value.requires_grad for value in got[1:])


@pytest.mark.parametrize("ranks", [1, 3])
def test_gradients_against_finite_differences(ranks):
    slots, hashes_2P = ring(9, 4, seed=3), torch.tensor([[0, 1, 9], [2, 9, 9]])
    queries_PD = unit(3, 5, seed=4).requires_grad_()
    assert torch.autograd.gradcheck(lambda q_PD: term(split(slots, ranks), q_PD, hashes_2P).lse_P, queries_PD)


def test_without_a_key_that_counts_there_is_no_mass_and_no_gradient():
    slots, queries_PD = ring(6, 1, seed=5), unit(2, 5, seed=6).requires_grad_()
    none = term([slots], queries_PD, torch.zeros(2, 2, dtype=torch.int64))  # every key is a duplicate
    assert none.lse_P.tolist() == [float("-inf")] * 2
    torch.logaddexp(torch.zeros(2, dtype=torch.float64), none.lse_P).sum().backward()
    assert not queries_PD.grad.any()
    assert (none.counted, none.similarity) == (0, 0)
    assert none.masked == 2 * slots.usable_BK.sum()


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_group_meets_the_young_keys_of_its_language(dtype):
    config = BankConfig(size=4, max_age=2, dtype=dtype)
    banks = LanguageBanks(config, ["de", "en"], 3, torch.device("cpu"))
    pushed = unit(4, 2, 3, seed=7).float()
    for step, lang in enumerate(["en", "de", "en"]):
        banks.push([lang], pushed[step : step + 1], torch.tensor([[10 * step, 10 * step + 1]]), step)
    queries_PD = unit(2, 3, seed=8).float()
    got = bank_term(banks, "en", queries_PD, torch.tensor([[20, 5], [6, 7]]), 3, TEMPERATURE)
    stored = pushed[2].to(torch.bfloat16).float() if dtype == "bf16" else pushed[2]
    logits_PK = queries_PD @ stored.T / TEMPERATURE
    logits_PK[0, 0] = float("-inf")  # the first query is the sentence with hash 20
    torch.testing.assert_close(got.lse_P, logits_PK.logsumexp(1))
    assert (got.used, got.age, got.counted, got.masked) == (2, 1, 3, 1)  # those of step 0 are 3 steps old
