"""Token-budget batches: what every packing must keep, and how little is padded."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccp_ray.batching import equal_chunks, pad, padding, token_budget_batches

some_lengths = st.lists(st.integers(0, 300), max_size=200).map(lambda values: np.array(values, dtype=np.int64))


@given(some_lengths, st.integers(1, 2000))
def test_every_row_once_and_no_batch_over_the_budget(lengths, budget):
    batches = token_budget_batches(lengths, budget)
    assert sorted(int(i) for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * lengths[batch].max() <= budget
    in_order = [int(lengths[i]) for batch in batches for i in batch]
    assert in_order == sorted(in_order)


@given(some_lengths, st.integers(1, 2000))
def test_no_batch_ends_early(lengths, budget):
    batches = token_budget_batches(lengths, budget)
    for one, following in itertools.pairwise(batches):
        assert (len(one) + 1) * lengths[following[0]] > budget


@given(some_lengths.filter(len), st.integers(1, 2000))
def test_padding_is_what_the_padded_arrays_hold(lengths, budget):
    rows = [np.ones(length, dtype=np.int64) for length in lengths]
    real = padded = 0
    for batch in token_budget_batches(lengths, budget):
        ids_BT, mask_BT = pad([rows[i] for i in batch], pad_id=0)
        real += int(mask_BT.sum())
        padded += ids_BT.size
    assert padding(lengths, budget) == (real, padded)


def test_a_piece_of_mixed_lengths_wastes_less_than_five_percent():
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(3, 0.6, size=16_384), 3, 128).astype(np.int64)
    real, padded = padding(lengths, 8192)
    assert real / padded > 0.95
    reading_order = sum(64 * lengths[start : start + 64].max() for start in range(0, len(lengths), 64))
    assert real / reading_order < 0.6


@pytest.mark.parametrize("budget", [1024, 16_384])  # the encoder's own on a CPU, on a GPU
def test_a_piece_at_the_default_budgets_wastes_less_than_two_percent(budget):
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(3, 0.6, size=65_536), 3, 128).astype(np.int64)
    real, padded = padding(lengths, budget)
    assert real / padded > 0.98


@given(st.integers(1, 40), st.data())
def test_equal_chunks_differ_by_one_row_at_most_and_are_sorted_by_length(rows, data):
    chunks = data.draw(st.integers(1, rows))
    lengths = np.array(data.draw(st.lists(st.integers(1, 64), min_size=rows, max_size=rows)), dtype=np.int64)
    parts = equal_chunks(lengths, chunks)
    assert len(parts) == chunks  # every rank makes as many passes
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    order = np.concatenate(parts)
    assert sorted(order) == list(range(rows))
    assert list(lengths[order]) == sorted(lengths)


def test_pad_fills_to_the_longest_row_and_masks_what_it_filled():
    ids_BT, mask_BT = pad([np.array([5, 6, 7]), np.array([8])], pad_id=1)
    assert ids_BT.tolist() == [[5, 6, 7], [8, 1, 1]]
    assert mask_BT.tolist() == [[1, 1, 1], [1, 0, 0]]
    assert ids_BT.dtype == mask_BT.dtype == np.int64


def test_a_text_longer_than_the_budget_stands_alone():
    batches = token_budget_batches(np.array([100, 3, 3, 200]), budget=50)
    assert [batch.tolist() for batch in batches] == [[1, 2], [0], [3]]


@pytest.mark.parametrize("budget", [1, 8192])
def test_no_texts_make_no_batches(budget):
    assert token_budget_batches(np.array([], dtype=np.int64), budget) == []
    assert padding(np.array([], dtype=np.int64), budget) == (0, 0)
