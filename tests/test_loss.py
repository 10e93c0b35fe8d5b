"""Bidirectional InfoNCE against an oracle in NumPy that loops over rows, and its gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ccp_ray.bank import Slots
from ccp_ray.bank_term import combine, shard_rows
from ccp_ray.loss import ContrastiveOutput, Side, bidirectional_info_nce

TEMPERATURE = 0.1


def unit(rng, count, dimensions=6):
    vectors = rng.normal(size=(count, dimensions))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def case(pairs, bank, kinds, seed):
    """Vectors and hashes; with few `kinds` of sentences many are duplicates."""
    rng = np.random.default_rng(seed)
    vectors = [unit(rng, pairs), unit(rng, pairs), unit(rng, bank)]
    hashes = [rng.integers(kinds, size=count) for count in (pairs, pairs, bank)]
    return vectors, hashes


def run(vectors, hashes, running_side, with_bank=True, temperature=TEMPERATURE, both=True) -> ContrastiveOutput:
    tensors = [v if isinstance(v, torch.Tensor) else torch.from_numpy(v) for v in vectors]
    numbers = [torch.from_numpy(np.asarray(h)) for h in hashes]
    sides = Side(tensors[0], numbers[0]), Side(tensors[1], numbers[1])
    term = None
    if with_bank:
        used_1K = torch.ones(1, len(tensors[2]), dtype=torch.bool)
        slots = Slots(tensors[2].detach()[None], numbers[2][None], torch.ones_like(numbers[2])[None], used_1K)
        queries, keys = sides[1 - running_side], sides[running_side]
        hashes_12P = torch.stack([queries.hashes_P, keys.hashes_P])[None]
        rows = shard_rows(slots, queries.vectors_PD.detach()[None], hashes_12P, temperature)
        term = combine(rows, queries.vectors_PD, temperature)
    return bidirectional_info_nce(*sides, term, running_side, temperature, both=both)


def oracle(vectors, hashes, running_side, with_bank=True, temperature=TEMPERATURE):
    """Loss by key side, masked share of group and bank and of the bank alone, and staleness gap, row by row."""
    pairs = len(vectors[0])
    losses, masked, candidates, bank_masked = {}, 0, 0, 0
    in_group, in_bank = [], []
    for key_side in (0, 1):
        query_side = 1 - key_side
        bank = with_bank and key_side == running_side
        total = 0.0
        for i in range(pairs):
            query = vectors[query_side][i]
            forbidden = {int(hashes[0][i]), int(hashes[1][i])}
            positive = float(query @ vectors[key_side][i])
            logits = [positive]
            for j in range(pairs):
                duplicate = int(hashes[key_side][j]) in forbidden and j != i
                if j != i and not duplicate:
                    logits.append(float(query @ vectors[key_side][j]))
                    if key_side == running_side:
                        in_group.append(logits[-1])
                if key_side == running_side:
                    masked += duplicate
                    candidates += 1
            for j in range(len(vectors[2]) if bank else 0):
                duplicate = int(hashes[2][j]) in forbidden
                if not duplicate:
                    logits.append(float(query @ vectors[2][j]))
                    in_bank.append(logits[-1])
                masked += duplicate
                bank_masked += duplicate
                candidates += 1
            scaled = np.array(logits) / temperature
            total += math.log(np.exp(scaled - scaled.max()).sum()) + scaled.max() - scaled[0]
        losses[key_side] = total / pairs
    gap = np.mean(in_group) - np.mean(in_bank) if in_group and in_bank else 0.0
    bank_pairs = pairs * len(vectors[2]) if with_bank else 0
    return losses, masked / candidates, bank_masked / max(1, bank_pairs), gap


@given(
    st.integers(2, 9), st.integers(0, 12), st.integers(1, 40), st.integers(0, 10**6), st.sampled_from([0, 1]),
    st.booleans(), st.sampled_from([0.05, 0.1, 1.0]), st.booleans(),
)  # fmt: skip
def test_loss_masks_and_gap_are_the_oracles(pairs, bank, kinds, seed, running_side, with_bank, temperature, both):
    vectors, hashes = case(pairs, bank, kinds, seed)
    got = run(vectors, hashes, running_side, with_bank, temperature, both)
    losses, masked, bank_masked, gap = oracle(vectors, hashes, running_side, with_bank, temperature)
    loss = (losses[0] + losses[1]) / 2 if both else losses[running_side]
    assert got.loss.item() == pytest.approx(loss, rel=1e-9, abs=1e-12)
    assert got.masked_share.item() == pytest.approx(masked, abs=1e-6)
    assert got.bank_masked_share.item() == pytest.approx(bank_masked, abs=1e-6)
    assert got.staleness_gap.item() == pytest.approx(gap, abs=1e-9)


def mean_loss(vectors, hashes):
    """The oracle's, over both directions, the bank with the centres as keys."""
    losses = oracle(vectors, hashes, 0)[0]
    return (losses[0] + losses[1]) / 2


@pytest.mark.parametrize("running_side", [0, 1])
def test_swapping_the_sides_and_the_running_side_changes_nothing(running_side):
    (centre, context, bank), (h0, h1, h2) = case(6, 5, 8, seed=1)
    one = run((centre, context, bank), (h0, h1, h2), running_side)
    other = run((context, centre, bank), (h1, h0, h2), 1 - running_side)
    assert one.loss.item() == pytest.approx(other.loss.item(), rel=1e-12)


@pytest.mark.parametrize("running_side", [0, 1])
def test_the_bank_joins_only_the_direction_whose_keys_took_the_running_statistics(running_side):
    """A bank key equal to one query hurts the direction that query asks in, and no other."""
    vectors, hashes = case(4, 1, 10**9, seed=2)
    base = run(vectors, hashes, running_side, with_bank=False).loss.item()
    hurt = {}
    for side in (0, 1):
        vectors[2] = vectors[side][:1]
        hurt[side] = run(vectors, hashes, running_side).loss.item() - base
    queries = 1 - running_side
    assert hurt[queries] > 5 * hurt[running_side]


def test_an_empty_bank_is_no_bank():
    vectors, hashes = case(5, 0, 10**9, seed=3)
    assert run(vectors, hashes, 0).loss.item() == run(vectors, hashes, 0, with_bank=False).loss.item()


def test_positives_stay_even_where_all_sentences_are_the_same():
    vectors, _ = case(5, 4, 1, seed=4)
    got = run(vectors, [np.zeros(5, int), np.zeros(5, int), np.zeros(4, int)], 0)
    assert got.loss.item() == 0  # nothing is left to be told from
    assert got.accuracy.item() == 1
    assert got.staleness_gap.item() == 0


def test_a_duplicate_is_no_negative():
    """A second copy of a pair changes the loss of neither."""
    vectors, hashes = case(3, 0, 10**9, seed=5)
    doubled = [np.concatenate([v, v[:1]]) for v in vectors[:2]] + [vectors[2]]
    numbers = [np.concatenate([h, h[:1]]) for h in hashes[:2]] + [hashes[2]]
    single, double = run(vectors, hashes, 0), run(doubled, numbers, 0)
    assert double.loss.item() == pytest.approx(mean_loss(doubled, numbers))
    assert double.masked_share.item() == pytest.approx(2 / 16)
    # Nor is it an error to prefer one copy to the other.
    easy = [np.eye(6)[:3], np.eye(6)[:3], np.zeros((0, 6))]
    copied = [np.concatenate([v, v[:1]]) for v in easy[:2]] + [easy[2]]
    assert run(easy, hashes, 0).accuracy.item() == run(copied, numbers, 0).accuracy.item() == 1
    assert single.masked_share.item() == 0


def test_one_direction_asks_with_the_side_that_is_not_the_keys():
    """With a momentum encoder keys are not trained: queries learn from partner, group and bank."""
    vectors, hashes = case(4, 3, 10**9, seed=10)
    sides = [torch.from_numpy(v).requires_grad_() for v in vectors[:2]]
    keys = sides[0].detach()
    run((keys, sides[1], vectors[2]), hashes, 0, both=False).loss.backward()
    assert sides[1].grad.norm(dim=1).min() > 0
    assert sides[0].grad is None


@pytest.mark.parametrize("running_side", [0, 1])
@pytest.mark.parametrize("with_bank", [True, False])
@pytest.mark.parametrize("both", [True, False])
def test_gradients(running_side, with_bank, both):
    vectors, hashes = case(4, 3, 6, seed=6)
    bank = torch.from_numpy(vectors[2])

    def loss(centre, context):
        return run((centre, context, bank), hashes, running_side, with_bank, both=both).loss

    sides = tuple(torch.from_numpy(v).requires_grad_() for v in vectors[:2])
    assert torch.autograd.gradcheck(loss, sides)
    for gradient in torch.autograd.grad(loss(*sides), sides):
        assert (gradient.norm(dim=1) > 0).all()  # both sides learn


def test_masked_candidates_get_no_gradient():
    vectors, _ = case(3, 0, 10**9, seed=7)
    context = torch.from_numpy(vectors[1]).requires_grad_()
    hashes = [np.array([1, 2, 3]), np.array([11, 12, 1]), np.array([], dtype=int)]  # context 2 is centre 0
    centre = torch.from_numpy(vectors[0])
    got = run((centre, context, vectors[2]), hashes, 0)
    (gradient,) = torch.autograd.grad(got.loss, context)
    without = mean_loss(vectors, hashes)
    assert got.loss.item() == pytest.approx(without)
    step = 1e-6
    moved = vectors[1].copy()
    moved[2] += step * vectors[0][0]
    numeric = (mean_loss((vectors[0], moved, vectors[2]), hashes) - without) / step
    assert float(gradient[2] @ centre[0]) == pytest.approx(numeric, abs=1e-4)


def test_guessing_costs_the_logarithm_of_the_candidates():
    """All vectors alike: what the log calls chance."""
    same, bank = np.tile([[1.0, 0.0]], (8, 1)), np.tile([[1.0, 0.0]], (24, 1))
    hashes = [np.arange(8), np.arange(8) + 100, np.arange(24) + 200]
    assert run((same, same, bank), hashes, 0).loss.item() == pytest.approx((math.log(8) + math.log(32)) / 2)


def test_accuracy_is_the_share_of_true_partners_over_both_directions():
    centre = np.eye(4)
    context = np.eye(4)[[1, 0, 2, 3]]  # the first two are exchanged
    hashes = [np.arange(4), np.arange(4) + 10, np.array([], dtype=int)]
    assert run((centre, context, np.zeros((0, 4))), hashes, 0).accuracy.item() == pytest.approx(0.5)


def test_a_growing_gap_is_positive():
    """Bank keys that are far from all queries: the shortcut that the gap measures."""
    rng = np.random.default_rng(8)
    near = unit(rng, 8) * 0.1 + np.eye(6)[0]
    near /= np.linalg.norm(near, axis=1, keepdims=True)
    far = -near
    hashes = [np.arange(8), np.arange(8) + 10, np.arange(8) + 20]
    assert run((near, near, far), hashes, 0).staleness_gap.item() > 1.5
    assert abs(run((near, near, near), hashes, 0).staleness_gap.item()) < 0.02


def test_what_the_monitor_watches_carries_no_graph():
    vectors, hashes = case(4, 3, 10**9, seed=9)
    got = run([torch.from_numpy(v).requires_grad_() for v in vectors], hashes, 0)
    assert got.loss.requires_grad
    assert not any(value.requires_grad for value in got[1:])
