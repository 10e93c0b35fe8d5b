"""Retrieval against naive oracles, ties included."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import normalize

from eval.metrics import nearest, nearest_others, retrieval_accuracy

# Small whole numbers: products are exact in float32, so ties are true ties.
small = st.integers(-3, 3)


@given(st.data(), st.integers(1, 20), st.integers(1, 20), st.integers(1, 4))
def test_nearest_is_the_first_largest_product(data: st.DataObject, queries: int, candidates: int, width: int) -> None:
    queries_ND = data.draw(arrays(np.float32, (queries, width), elements=small))
    candidates_MD = data.draw(arrays(np.float32, (candidates, width), elements=small))
    expected = [max(range(candidates), key=lambda j: (q @ candidates_MD[j], -j)) for q in queries_ND]
    assert nearest(queries_ND, candidates_MD).tolist() == expected


@given(st.data(), st.integers(2, 20), st.integers(1, 3))
def test_nearest_others_leaves_only_itself_out(data: st.DataObject, rows: int, width: int) -> None:
    vectors_ND = data.draw(arrays(np.float32, (rows, width), elements=small))
    others = [[j for j in range(rows) if j != i] for i in range(rows)]
    expected = [max(others[i], key=lambda j: (vectors_ND[i] @ vectors_ND[j], -j)) for i in range(rows)]
    assert nearest_others(vectors_ND).tolist() == expected


@given(rows=st.integers(1, 30), seed=st.integers(0, 99))
@settings(deadline=None)
def test_accuracy_is_a_share_that_order_does_not_change(rows: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    queries_ND, candidates_ND = (rng.standard_normal((rows, 5)) for _ in range(2))
    order = rng.permutation(rows)
    accuracy = retrieval_accuracy(queries_ND, candidates_ND)
    assert 0 <= accuracy <= 1
    assert retrieval_accuracy(queries_ND[order], candidates_ND[order]) == pytest.approx(accuracy)
    assert retrieval_accuracy(normalize(queries_ND), normalize(queries_ND)) == 1


def test_matches_scikit_learn_over_several_blocks() -> None:
    rng = np.random.default_rng(0)
    candidates_MD = normalize(rng.standard_normal((2500, 16))).astype(np.float32)
    queries_ND = normalize(candidates_MD + 0.25 * rng.standard_normal((2500, 16))).astype(np.float32)
    found = NearestNeighbors(n_neighbors=1, metric="cosine", algorithm="brute").fit(candidates_MD)
    expected = found.kneighbors(queries_ND, return_distance=False)[:, 0]
    np.testing.assert_array_equal(nearest(queries_ND, candidates_MD), expected)
    assert retrieval_accuracy(queries_ND, candidates_MD) == np.mean(expected == np.arange(2500))


def test_copies_tie_to_the_first_wherever_they_lie() -> None:
    """Rounding depends on a row's place in the block; two copies must not be told apart by it."""
    rng = np.random.default_rng(1)
    half_MD = normalize(rng.standard_normal((700, 33))).astype(np.float32)
    candidates_MD = np.concatenate([half_MD, half_MD])
    assert nearest(half_MD, candidates_MD).tolist() == list(range(700))
    assert retrieval_accuracy(candidates_MD, candidates_MD) == 0.5
    assert nearest_others(candidates_MD).tolist() == [*range(700, 1400), *range(700)]


def test_no_queries_is_an_error() -> None:
    with pytest.raises(ValueError, match="no queries"):
        retrieval_accuracy(np.zeros((0, 3)), np.zeros((2, 3)))
