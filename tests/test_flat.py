"""Vectors in memory find what FAISS' own index of them finds, to the bit."""

from __future__ import annotations

import faiss
import numpy as np
import pytest

from ccp_ray.flat import Flat

ROWS, D = 300, 24
SELECTORS = {
    "all": lambda chosen_N: None,
    "range": lambda chosen_N: faiss.IDSelectorRange(20, 45),
    "bitmap": lambda chosen_N: faiss.IDSelectorBitmap(np.packbits(chosen_N, bitorder="little")),
}


@pytest.mark.parametrize("select", SELECTORS)
@pytest.mark.parametrize("queries", [3, 50])  # below and above where FAISS multiplies matrices
@pytest.mark.parametrize("count", [7, ROWS + 5])
def test_search_is_that_of_an_exact_index(select: str, queries: int, count: int) -> None:
    rng = np.random.default_rng(0)
    vectors_ND, queries_QD = (rng.normal(size=(n, D)).astype(np.float32) for n in (ROWS, queries))
    selector = SELECTORS[select](rng.random(ROWS) < 0.3)
    params = None if selector is None else faiss.SearchParameters(sel=selector)
    index = faiss.IndexFlatIP(D)
    index.add(vectors_ND)
    expected = index.search(queries_QD, count, params=params)
    for mine, theirs in zip(Flat(vectors_ND).search(queries_QD, count, params), expected, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_rows_are_those_that_were_given() -> None:
    vectors_ND = np.random.default_rng(1).normal(size=(ROWS, D)).astype(np.float32)
    flat = Flat(vectors_ND)
    assert (flat.ntotal, flat.d) == (ROWS, D)
    np.testing.assert_array_equal(flat.reconstruct_batch(np.array([5, 2, 5])), vectors_ND[[5, 2, 5]])
    np.testing.assert_array_equal(flat.reconstruct_n(10, 4), vectors_ND[10:14])
